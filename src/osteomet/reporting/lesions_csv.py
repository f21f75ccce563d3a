"""``lesions.csv``: one row per lesion above the operating threshold, for spreadsheets.

Columns, in this order:

===================== ============================================================
scan_id, patient_id   as in ``findings.json``; patient_id may be empty
id, label             the lesion's name, and its value in ``lesions.nii.gz``
score                 probability that it is a metastasis
p_lung                probability that its primary is lung cancer
volume_ml             volume of its mask
longest_diameter_mm   largest distance between two surface voxels
centroid_[xyz]_mm     centre of mass, LPS: x to Left, y to Posterior, z to Superior
box_[xyz][12]_mm      extent of its box, LPS
hu_*                  mean, std, p5, median and p95 of the HU inside its mask
lytic ... cortical    probability of each look; empty where the weights do not tell
===================== ============================================================

A scan without lesions gives the header alone.
"""

import csv
import io
from pathlib import Path

from osteomet.findings import Findings, Lesion, LesionAttributes
from osteomet.reporting.files import write_atomically

AXES = ("x", "y", "z")
COLUMNS = (
    "scan_id",
    "patient_id",
    "id",
    "label",
    "score",
    "p_lung",
    "volume_ml",
    "longest_diameter_mm",
    *(f"centroid_{axis}_mm" for axis in AXES),
    *(f"box_{axis}{side}_mm" for side in (1, 2) for axis in AXES),
    "hu_mean",
    "hu_std",
    "hu_p5",
    "hu_median",
    "hu_p95",
    *LesionAttributes.model_fields,
)


def write_lesions_csv(findings: Findings, path: Path) -> None:
    """Write the lesions' measurements as UTF-8 CSV, best score first.

    Raises:
        ReportError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for lesion in findings.lesions:
        writer.writerow([findings.scan_id, findings.patient_id or "", *_measurements(lesion)])
    write_atomically(path, text.getvalue().encode())


def _measurements(lesion: Lesion) -> list[str | int]:
    hu = lesion.hu
    millimetres = [lesion.longest_diameter_mm, *lesion.centroid_lps_mm, *lesion.box_lps_mm]
    return [
        lesion.id,
        lesion.label,
        f"{lesion.score:.4f}",
        f"{lesion.p_lung:.4f}",
        f"{lesion.volume_ml:.4f}",
        *(f"{value:.2f}" for value in millimetres),
        *(f"{value:.1f}" for value in (hu.mean, hu.std, hu.p5, hu.median, hu.p95)),
        *_looks(lesion),
    ]


def _looks(lesion: Lesion) -> list[str]:
    if lesion.attributes is None:
        return [""] * len(LesionAttributes.model_fields)
    return [f"{value:.4f}" for value in lesion.attributes.model_dump().values()]
