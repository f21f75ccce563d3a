"""What a whole trunk costs, from its DICOM folder to all results, stage by stage.

`python benchmarks/whole_scan.py --folder FOLDER` simulates a trunk of 512 x 512 x 700 voxels below
FOLDER, once, writes it as DICOM, and predicts it in processes of their own. It writes
`whole_scan.md` beside this file. With `--nnunet PYTHON`, an interpreter that has nnU-Net v2, the
sliding window of nnU-Net is timed in between (`nnunet_predict.py`).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.inference.resources import StageClock
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.volumes import read_volume

HERE = Path(__file__).parent
SEED = 7
SHAPE, NAME = (700, 512, 512), "sim7-00000"
WHOLE = "whole process"
"""With the interpreter's start and all imports."""

Costs = dict[str, dict[str, float]]
"""Stage -> seconds, cpu_seconds, peak_mb."""


def make_trunk(folder: Path) -> Path:
    """Return the trunk's volume; simulated where it is not there yet."""
    path = folder / "cohort" / "images" / f"{NAME}.nii"
    if not path.exists():
        command = ["simulate", "-o", str(folder / "cohort"), "--patients", "1", "--seed", str(SEED)]
        command += ["--region", "trunk", "--field", "trunk"]
        subprocess.run([sys.executable, "-m", "osteomet.cli", *command], check=True)
    return path


def make_series(folder: Path) -> Path:
    """Return the DICOM folder of the trunk; made where it is not there yet."""
    series = folder / "dicom"
    if not series.exists():
        scan = read_volume(make_trunk(folder))
        write_ct_series(scan.volume, series, patient_id="trunk")
    return series


def predict_here(series: Path, out: Path) -> None:
    """Predict in this process and print what it cost as JSON."""
    clock = StageClock(torch.device("cpu"), watch_memory=sys.platform.startswith("linux"))
    with clock.stage("load weights"):
        predictor = Predictor(device="cpu")
    prediction = predictor.predict(series, clock=clock)
    with clock.stage("write"):
        write_results(prediction, out)
    costs = {
        name: {
            "seconds": clock.seconds[name],
            "cpu_seconds": clock.cpu_seconds[name],
            "peak_mb": clock.peak_mb.get(name, 0.0),
        }
        for name in clock.seconds
    }
    grid = prediction.findings.series
    found = len(prediction.findings.candidates), len(prediction.findings.lesions)
    print(json.dumps({"costs": costs, "shape": grid.shape_zyx, "found": found}))


def run_once(series: Path, out: Path) -> tuple[Costs, tuple[int, int]]:
    """Predict in a process of its own; return its costs, and candidates and lesions found."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--folder", str(series), "--child", str(out)]
    before, wall = os.times(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = os.times()
    result = json.loads(done.stdout.splitlines()[-1])
    costs: Costs = result["costs"]
    cpu = sum(after[2:4]) - sum(before[2:4])
    peak = max(stage["peak_mb"] for stage in costs.values())
    costs[WHOLE] = {
        "seconds": time.perf_counter() - wall, "cpu_seconds": cpu, "peak_mb": peak,
    }  # fmt: skip
    return costs, tuple(result["found"])


def run_nnunet(python: str, folder: Path, tiles: int) -> dict[str, float]:
    """Time nnU-Net's tiles on the scan at 1 mm."""
    out = folder / "nnunet.json"
    command = [python, str(HERE / "nnunet_predict.py"), "--tiles", str(tiles), "--json", str(out)]
    subprocess.run(command, check=True)
    result: dict[str, float] = json.loads(out.read_text())
    return result


def table(runs: list[Costs]) -> list[str]:
    """Return a row a stage: medians, and the range by the clock."""
    lines = [
        "| stage | CPU s | wall s | fastest | slowest | peak MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for stage in runs[0]:
        cpu, wall, peak = (
            [run[stage][what] for run in runs] for what in ("cpu_seconds", "seconds", "peak_mb")
        )
        lines.append(
            f"| {stage} | {median(cpu):.2f} | {median(wall):.2f} | {min(wall):.2f} | "
            f"{max(wall):.2f} | {max(peak):.0f} |"
        )
    return lines


def nnunet_lines(ours: list[Costs], theirs: list[dict[str, float]]) -> list[str]:
    """Return the comparison in words and numbers."""
    if not theirs:
        return ["nnU-Net was not timed: `--nnunet PYTHON`."]
    cpu, wall = median(one["cpu_s"] for one in theirs), median(one["wall_s"] for one in theirs)
    our_cpu = median(run[WHOLE]["cpu_seconds"] for run in ours)
    our_wall = median(run[WHOLE]["seconds"] for run in ours)
    first = theirs[0]
    return [
        f"nnU-Net {first['nnunetv2']} (`nnunet_predict.py`): its default network for 1 mm CT, "
        f"random weights, mirroring off, half a patch from tile to tile, {first['tiles']} tiles "
        f"of 128 voxels a side on the scan at 1 mm, {first['timed']} of them timed a run and "
        "scaled. Its reading, resampling and writing are not counted; ours are.",
        "",
        "| | CPU s | wall s |",
        "| --- | --- | --- |",
        f"| nnU-Net, scaled | {cpu:.0f} | {wall:.0f} |",
        f"| osteomet, {WHOLE} | {our_cpu:.1f} | {our_wall:.1f} |",
        f"| ratio | {cpu / our_cpu:.0f} | {wall / our_wall:.0f} |",
    ]


def main() -> None:
    """Make the scan, predict it some times, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the scan lies")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nnunet", help="interpreter with nnU-Net v2")
    parser.add_argument("--nnunet-tiles", type=int, default=2, help="timed in each run")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        predict_here(options.folder, options.child)
        return
    series = make_series(options.folder)
    run_once(series, options.folder / "results")  # compiles the kernels and fills the disk's cache
    ours, theirs = [], []
    for _ in range(options.runs):
        costs, found = run_once(series, options.folder / "results")
        ours.append(costs)
        if options.nnunet:
            theirs.append(run_nnunet(options.nnunet, options.folder, options.nnunet_tiles))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    lines = [
        "# A whole trunk, from its DICOM folder to all results",
        "",
        "Repeat with `python benchmarks/whole_scan.py --folder FOLDER --nnunet PYTHON`. "
        f"{' x '.join(map(str, SHAPE))} voxels (z, y, x), uncompressed DICOM, bundled weights; "
        f"{found[0]} candidates, {found[1]} lesions. {options.runs} runs after one that compiles, "
        "each in a process of its own. CPU seconds add up all threads and bear company; wall "
        f"seconds do not. {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{threads} threads, Python {platform.python_version()}, load average {load} at the end.",
        "",
        *table(ours),
        "",
        "## Beside nnU-Net v2",
        "",
        *nnunet_lines(ours, theirs),
        "",
    ]
    (HERE / "whole_scan.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
