"""What a whole trunk costs, from its DICOM folder to all results, stage by stage.

`python benchmarks/whole_scan.py --folder FOLDER` simulates a trunk of 512 x 512 x 700 voxels below
FOLDER, once, writes it as DICOM, and predicts it in processes of their own: its middle at 0.8 x 0.8
x 1 mm, as trunks are scanned, and with `--long` also all of it, which reaches from the neck to the
thighs in slices of 1.5 mm. It writes `whole_scan.md` beside this file. With `--nnunet PYTHON`, an
interpreter that has nnU-Net v2, its sliding window is timed in between (`nnunet_predict.py`).
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

import numpy as np
import torch

from osteomet.data.resample import resample_slabs
from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.inference.resources import StageClock
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.volumes import read_volume
from osteomet.volume import Volume

HERE = Path(__file__).parent
SEED = 7
SHAPE, NAME = (700, 512, 512), "sim7-00000"
WHOLE = "whole process"
"""With the interpreter's start and all imports."""

Spacing = tuple[float, float, float]

MIDDLE_MM: Spacing = (1.0, 0.8, 0.8)

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


def make_series(folder: Path, spacing_mm: Spacing | None) -> Path:
    """Return the DICOM folder of the trunk; made where it is not there yet.

    Args:
        folder: below which it lies.
        spacing_mm: of the middle of the scan, resampled; None takes the scan as it is.
    """
    series = folder / ("dicom" if spacing_mm is None else "dicom-middle")
    if not series.exists():
        scan = read_volume(make_trunk(folder)).volume
        write_ct_series(
            scan if spacing_mm is None else middle_of(scan, spacing_mm), series, patient_id="trunk"
        )
    return series


def middle_of(scan: Volume, spacing_mm: Spacing) -> Volume:
    """Return as many voxels as the scan has, of another size, about its middle."""
    upright = scan.closest_lps()
    z, y, x = (to / have for to, have in zip(spacing_mm, upright.spacing_zyx_mm, strict=True))
    starts = [
        int(n / step - side) // 2
        for n, step, side in zip(upright.shape, (z, y, x), SHAPE, strict=True)
    ]
    low_z, low_y, low_x = (slice(s, s + n) for s, n in zip(starts, SHAPE, strict=True))
    slabs = resample_slabs(upright.voxels, (z, y, x), (low_z, low_y, low_x))
    return Volume.from_spacing(np.concatenate(list(slabs)), spacing_mm)


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


def measure(
    options: argparse.Namespace, spacing_mm: Spacing | None, title: str, nnunet: str | None
) -> list[str]:
    """Predict one scan some times, nnU-Net's tiles in between; return a section of the page."""
    series, out = make_series(options.folder, spacing_mm), options.folder / "results"
    run_once(series, out)  # compiles the kernels and fills the disk's cache
    ours, theirs = [], []
    for _ in range(options.runs):
        costs, (candidates, lesions) = run_once(series, out)
        ours.append(costs)
        if nnunet:
            theirs.append(run_nnunet(nnunet, options.folder, options.nnunet_tiles))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    found = f"{candidates} candidates, {lesions} lesions. Load average {load} at the end."
    lines = ["", f"## {title[0].upper() + title[1:]}", "", found, "", *table(ours)]
    if nnunet:
        lines += ["", "### Beside nnU-Net v2", "", *nnunet_lines(ours, theirs)]
    return lines


def main() -> None:
    """Make the scan, predict it some times, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the scan lies")
    parser.add_argument("--long", action="store_true", help="also the scan as simulated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nnunet", help="interpreter with nnU-Net v2")
    parser.add_argument("--nnunet-tiles", type=int, default=2, help="timed in each run")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        predict_here(options.folder, options.child)
        return
    sections = [
        "# A whole trunk, from its DICOM folder to all results",
        "",
        f"Repeat with `python benchmarks/whole_scan.py --folder FOLDER{' --long' * options.long} "
        f"--nnunet PYTHON`. {' x '.join(map(str, SHAPE))} voxels (z, y, x), uncompressed DICOM, "
        f"bundled weights. {options.runs} runs after one that compiles, each in a process of its "
        "own. CPU seconds add up all threads and bear company; wall seconds do not. "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads, Python "
        f"{platform.python_version()}.",
    ]
    sections += measure(options, MIDDLE_MM, "0.8 x 0.8 x 1 mm", nnunet=options.nnunet)
    if options.long:
        sections += measure(options, None, "neck to thighs, slices of 1.5 mm", nnunet=None)
    (HERE / "whole_scan.md").write_text("\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
