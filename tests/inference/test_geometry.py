"""One lesion placed in mm comes back where it was, however its slices were stacked."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from blobs import AIR_HU, LESION_HU, BlobFinder, blob_weights, ellipsoid, torso

from osteomet.findings import Findings
from osteomet.inference.pipeline import Predictor
from osteomet.io.dicom_writer import write_ct_series
from osteomet.volume import Volume

CENTRE = (12.0, -30.0, 205.0)
LESION, RADII = (15.0, -27.0, 198.0), (8.0, 6.0, 10.0)
SIZE_MM = 96.0


def rotation(axis: int, degrees: float) -> np.ndarray:
    turn, (a, b) = np.eye(3), [i for i in range(3) if i != axis]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[[a, a, b, b], [a, b, a, b]] = cosine, -sine, sine, cosine
    return turn


def grid(axes: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> Volume:
    """Return air on a grid about CENTRE; ``axes`` are the directions of z, y, x in columns."""
    shape = [round(SIZE_MM / spacing) for spacing in spacing_zyx_mm]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_zyx_mm
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.full(shape, AIR_HU, np.int16), affine)


def with_lesion(empty: Volume) -> Volume:
    volume = torso(empty, CENTRE)
    volume.voxels[ellipsoid(volume, LESION, RADII)] = LESION_HU
    return volume


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


AXIAL = np.eye(3)[:, ::-1]
STACKS = {
    "axial": (AXIAL, (1.5, 0.9, 0.9)),
    "thick": (AXIAL, (3.0, 0.8, 0.8)),
    "reversed": (AXIAL * (-1, 1, 1), (1.5, 0.9, 0.9)),
    "sagittal": (np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float), (1.5, 0.9, 1.1)),
    "coronal": (np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]], float), (2.0, 1.0, 1.0)),
    "oblique": (rotation(0, 18) @ rotation(2, -12) @ AXIAL, (1.5, 0.9, 0.9)),
    "turned far": (rotation(1, 40) @ AXIAL, (1.2, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", STACKS)
def test_lesion_through_dicom_and_back(name: str, tmp_path: Path) -> None:
    volume = with_lesion(grid(*STACKS[name]))
    write_ct_series(volume, tmp_path / "ct", patient_id="TEST", description=name)
    check(tmp_path / "ct")


def test_lesion_through_a_tilted_gantry_and_back(tmp_path: Path) -> None:
    upright = grid(AXIAL, (1.5, 0.9, 0.9))
    tilt = np.radians(14)
    row = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    # Rows lean, while the table still moves along z: fill voxels at their sheared places.
    k, j, i = np.indices(upright.shape)
    dz, dy, dx = upright.spacing_zyx_mm
    first = upright.index_to_world(np.zeros((1, 3)))[0] + (0, 0, 12)
    world = first + np.stack([i * dx, j * dy * row[1], k * dz + j * dy * row[2]], axis=-1)
    hu = np.full(upright.shape, AIR_HU, np.int16)
    for centre, radii, value in (
        (CENTRE, (45, 45, 45), 40),
        (CENTRE, (12, 12, 40), 400),
        (LESION, RADII, LESION_HU),
    ):
        hu[(((world - centre) / radii) ** 2).sum(axis=-1) <= 1] = value
    write_ct_series(upright.with_voxels(hu), tmp_path / "ct", patient_id="TEST")
    for path in (tmp_path / "ct").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        place = first + np.array([0, 0, dz * (dataset.InstanceNumber - 1)])
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in place]
        dataset.ImageOrientationPatient = ["1", "0", "0", *(f"{value:.6f}" for value in row)]
        dataset.save_as(path)
    findings = check(tmp_path / "ct")
    assert any("tilt" in warning for warning in findings.warnings)


def check(folder: Path) -> Findings:
    prediction = Predictor(blob_weights(), "cpu", detector=BlobFinder()).predict(folder)
    (lesion,) = prediction.findings.lesions
    scan = prediction.scan.volume
    truth, found = ellipsoid(scan, LESION, RADII), prediction.labels.whole().voxels == lesion.label
    off = np.linalg.norm(np.array(lesion.centroid_lps_mm) - LESION)
    assert dice(truth, found) >= 0.9, dice(truth, found)
    assert off <= 0.5, off
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * np.prod(RADII) / 1000, rel=0.1)
    assert lesion.longest_diameter_mm == pytest.approx(2 * max(RADII), abs=2.5)
    assert lesion.hu.median == pytest.approx(LESION_HU, abs=60)
    inside = ellipsoid(scan, LESION, tuple(r - 1.5 for r in RADII))
    assert found[inside].all()
    return prediction.findings
