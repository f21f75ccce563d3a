"""What the weights find in real CT: `OSTEOMET_REAL_DATA=FOLDER python benchmarks/real_ct.py`.

Writes a Markdown table: seconds and peak memory of each scan in a process of its own, lesions,
and for the BLDS patches how many of the radiologists' boxes are hit (box IoU at least 0.1) and
how many lesions hit none.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from osteomet.data.annotations import read_boxes_mm
from osteomet.evaluation.detection import match_candidates
from osteomet.findings import Findings
from osteomet.io.scan import read_scan

SCANS = {
    "BLDS patch 1": "blds_bone_lesions/1.nii.gz",
    "BLDS patch 2": "blds_bone_lesions/2.nii.gz",
    "BLDS patch 3": "blds_bone_lesions/3.nii.gz",
    "BLDS patch 4": "blds_bone_lesions/4.nii.gz",
    "abdomen and pelvis, 3 mm, metal": "totalseg_example_ct/example_ct.nii.gz",
    "20 slices, JPEG 2000 DICOM": "totalseg_example_dicom/ct",
    "thigh, sarcoma, DICOM": "sts_001_thigh_sarcoma/dicom/ct",
}
BOXES = "blds_bone_lesions/image_bone_lesions.csv"


def predict(source: Path, weights: str | None) -> Findings:
    """Predict one scan in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "osteomet.cli", "predict", str(source), "-o", folder]
        subprocess.run(command + (["--weights", weights] if weights else []), check=True)
        (result,) = Path(folder).iterdir()
        return Findings.read(result / "findings.json")


def boxes_hit(findings: Findings, source: Path, boxes: Path) -> tuple[int, int, int]:
    """Return boxes there are, boxes hit by a reported lesion, and lesions that hit none."""
    volume = read_scan(source).volume
    truth = volume.boxes_from_world(read_boxes_mm(boxes, source))
    matches = match_candidates(
        np.array([one.box_vox for one in findings.lesions], dtype=float).reshape(-1, 6),
        np.array([one.score for one in findings.lesions], dtype=float),
        truth,
    )
    hits = int(matches.hits.sum())
    return len(truth), hits, len(findings.lesions) - hits


def table(folder: Path, weights: str | None) -> str:
    """Return the table for all scans that are there."""
    lines = [
        "| scan | voxels (z, y, x) | seconds | peak MB | lesions | boxes hit | false positives |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    total = np.zeros(3, dtype=int)
    for name, path in SCANS.items():
        source = folder / path
        if not source.exists():
            continue
        findings = predict(source, weights)
        made = findings.provenance
        hit = false = "no boxes"
        if path.startswith("blds"):
            counts = boxes_hit(findings, source, folder / BOXES)
            total += counts
            hit, false = f"{counts[1]} of {counts[0]}", str(counts[2])
        shape = " x ".join(map(str, findings.series.shape_zyx))
        lines.append(
            f"| {name} | {shape} | {made.seconds['total']:.1f} | {made.peak_memory_mb:.0f} | "
            f"{len(findings.lesions)} | {hit} | {false} |"
        )
    lines.append(f"| BLDS patches together | | | | | {total[1]} of {total[0]} | {total[2]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="a name or path; none takes the bundled ones")
    options = parser.parse_args()
    if "OSTEOMET_REAL_DATA" not in os.environ:
        sys.exit("OSTEOMET_REAL_DATA names no folder; expected the folder of real CT")
    print(table(Path(os.environ["OSTEOMET_REAL_DATA"]), options.weights))


if __name__ == "__main__":
    main()
