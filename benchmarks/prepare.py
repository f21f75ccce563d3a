"""Preparing scans against nnU-Net: `python benchmarks/prepare.py --nnunet VENV/bin/python`.

Writes `prepare.md` beside this file. Each scan is prepared by a process of its own, from NIfTI to
what training reads; CPU time starts after the imports, peak memory is the process's. nnU-Net lives
in another environment: see `prepare.md`. Real CT is used where OSTEOMET_REAL_DATA names a folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from osteomet.data.resample import resample_linear
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels, write_labels, write_volume
from osteomet.simulate.patient import simulate_patient
from osteomet.volume import Volume

HERE = Path(__file__).parent
SPACING_MM = 1.0
VARIANTS = {"osteomet": None, "nnU-Net, order 3 (its default)": "3", "nnU-Net, order 1": "1"}


def write_scan(folder: Path, name: str, volume: Volume, lesions: np.ndarray) -> tuple[Path, Path]:
    """Write image and mask of 0 and 1 as NIfTI."""
    image, mask = folder / f"{name}.nii.gz", folder / f"{name}-mask.nii.gz"
    write_volume(image, volume)
    write_labels(mask, volume.with_voxels((lesions > 0).astype(np.uint8)))
    return image, mask


def scans(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write the scans that are prepared; return image and mask of each."""
    patient = simulate_patient(0)
    found = {
        "simulated": write_scan(folder, "simulated", patient.volume, patient.instances),
    }
    if "OSTEOMET_REAL_DATA" not in os.environ:
        return found
    root = Path(os.environ["OSTEOMET_REAL_DATA"])
    coarse = read_scan(root / "totalseg_example_ct/example_ct.nii.gz").volume
    lesions = np.zeros(coarse.shape, dtype=np.uint8)
    lesions[tuple(slice(n // 2, n // 2 + 6) for n in coarse.shape)] = 1
    found["abdomen, 3 mm"] = write_scan(folder, "abdomen", coarse, lesions)
    factors = (3.0, 4.0, 4.0)
    noise = np.random.default_rng(0).normal(
        0, 15, [int(n * f) for n, f in zip(coarse.shape, factors, strict=True)]
    )
    fine = ndimage.zoom(coarse.voxels.astype(np.float32), factors, order=1) + noise
    volume = Volume.from_spacing(np.rint(fine).astype(np.int16), (1.0, 0.75, 0.75))
    fine_lesions = np.kron(lesions, np.ones([int(f) for f in factors], dtype=np.uint8))
    found["the same, made finer"] = write_scan(folder, "fine", volume, fine_lesions)
    thigh = read_scan(root / "sts_001_thigh_sarcoma/dicom/ct").volume
    tumour = np.zeros(thigh.shape, dtype=np.uint8)
    tumour[20:30, 80:110, 80:110] = 1
    found["thigh, 3.3 mm"] = write_scan(folder, "thigh", thigh, tumour)
    return found


def measure(nnunet: str, order: str | None, image: Path, mask: Path) -> dict[str, float]:
    """Prepare a scan in a new process; return CPU and wall seconds, memory and size, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        if order is None:
            script, python, options = "osteomet_prepare.py", sys.executable, []
        else:
            script, python, options = "nnunet_prepare.py", nnunet, [order]
        command = [python, str(HERE / script), str(image), str(mask), folder, *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        return found | {"size_mb": size / 1e6}


def differences(nnunet: str, image: Path, mask: Path) -> tuple[float, float, float]:
    """Return largest and mean difference in HU on nnU-Net's own grid, and the share above 0.51."""
    with tempfile.TemporaryDirectory() as folder:
        script = str(HERE / "nnunet_prepare.py")
        subprocess.run(
            [nnunet, script, str(image), str(mask), folder, "check"],
            check=True, capture_output=True,
        )  # fmt: skip
        theirs = np.load(Path(folder) / "case.npy")
    volume = read_scan(image).volume
    z, y, x = (n / m for n, m in zip(volume.shape, theirs.shape, strict=True))
    ours = resample_linear(volume.voxels, (z, y, x), theirs.shape)
    apart = np.abs(ours - theirs)
    return float(apart.max()), float(apart.mean()), float((apart > 0.51).mean())


def row(name: str, taken: list[dict[str, float]], base: list[dict[str, float]]) -> str:
    """Return a row: medians with lowest and highest, and ratios to osteomet."""

    def spread(key: str, digits: int) -> str:
        values = [one[key] for one in taken]
        return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    def times(key: str) -> str:
        return f"{median(t[key] for t in taken) / median(b[key] for b in base):.2f}x"

    net = median(one["peak_mb"] - one["started_mb"] for one in taken)
    return (
        f"| {name} | {spread('cpu_s', 2)} | {times('cpu_s')} | {spread('peak_mb', 0)} | "
        f"{times('peak_mb')} | {net:.0f} | {median(one['size_mb'] for one in taken):.1f} |"
    )


def gain(theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> tuple[float, float]:
    """Return how many times more CPU time and memory they take."""
    cpu, memory = (
        median(one[key] for one in theirs) / median(one[key] for one in ours)
        for key in ("cpu_s", "peak_mb")
    )
    return cpu, memory


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet", help="an interpreter that has nnU-Net")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "prepare.md")
    options = parser.parse_args()
    version = subprocess.run(
        [options.nnunet, "-c", "import importlib.metadata as m; print(m.version('nnunetv2'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    lines = [
        "# Preparing a scan, against nnU-Net",
        "",
        "```bash",
        "python3 -m venv nnunet && nnunet/bin/pip install torch==2.13.0",
        "nnunet/bin/pip install --no-deps nnunetv2 acvl_utils batchgenerators batchgeneratorsv2 "
        "dynamic-network-architectures connected-components-3d future einops",
        "nnunet/bin/pip install numpy scipy scikit-image SimpleITK tqdm blosc2 nibabel pandas",
        "OSTEOMET_REAL_DATA=FOLDER python benchmarks/prepare.py --nnunet nnunet/bin/python "
        f"--rounds {options.rounds}",
        "```",
        "",
        f"nnU-Net {version} and osteomet, Python {platform.python_version()}, torch "
        f"{torch.__version__}, one thread each, on {os.cpu_count()} cores that others were using "
        "too. From NIfTI with a mask to the files that training reads, on a grid of 1 mm: read, "
        "crop, resample image and mask, compress, write; osteomet also digests the files, finds "
        f"bone and counts HU. Medians of {options.rounds} runs (lowest to highest), the programs "
        "in turn, a new process each. CPU time counts from after the imports; `MB more` is the "
        "peak less what the process had taken before it began. Ratios are nnU-Net over osteomet.",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        agreement: list[str] = []
        gains: list[tuple[float, float]] = []
        summary_at = len(lines)
        for title, (image, mask) in scans(Path(folder)).items():
            taken: dict[str, list[dict[str, Any]]] = {}
            for _ in range(options.rounds):
                for name, order in VARIANTS.items():
                    one = measure(options.nnunet, order, image, mask)
                    taken.setdefault(name, []).append(one)
            volume = read_labels(mask)
            shape = " x ".join(map(str, volume.shape))
            spacing = " x ".join(f"{s:.2f}" for s in volume.spacing_zyx_mm)
            lines += [
                "",
                f"## {title[0].upper() + title[1:]}: {shape} voxels of {spacing} mm",
                "",
                "| | CPU s | ratio | peak MB | ratio | MB more | MB on disk |",
                "| --- | --- | --- | --- | --- | --- | --- |",
                *(row(name, taken[name], taken["osteomet"]) for name in VARIANTS),
            ]
            gains += [
                gain(taken[name], taken["osteomet"]) for name in VARIANTS if name != "osteomet"
            ]
            largest, mean, share = differences(options.nnunet, image, mask)
            agreement.append(f"| {title} | {largest:.3f} | {mean:.3f} | {share:.1e} |")
    cpu, memory = zip(*gains, strict=True)
    lines[summary_at:summary_at] = [
        "",
        f"What follows: {min(cpu):.1f} to {max(cpu):.1f} times less CPU time than nnU-Net, and "
        f"{min(memory):.1f} to {max(memory):.1f} times less memory at the peak.",
    ]
    lines += [
        "",
        "## Agreement",
        "",
        "nnU-Net's preprocessor at order 1 without windowing, against osteomet's resampling on the "
        "same grid. osteomet rounds to whole HU, which is up to 0.5 from an equal result; float32 "
        "adds some thousandths.",
        "",
        "| scan | largest difference, HU | mean | share of voxels above 0.51 |",
        "| --- | --- | --- | --- |",
        *agreement,
    ]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
