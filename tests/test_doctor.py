"""A cohort that is broken on purpose, through the command line: each fault is found and shown."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from osteomet.cli.app import build_app
from osteomet.errors import InputError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume

SHAPE, SPACING_MM = (26, 44, 50), 3.0
COLUMNS = (
    "patient_id", "image", "mask", "centre", "primary", "scan_id", "split", "age", "sex",
    "mask_kind", "boxes",
)  # fmt: skip
SPINE, MUSCLE, AIR = (13, 28, 25), (13, 12, 25), (13, 3, 3)

Row = dict[str, str]


def patient(seed: int) -> Volume:
    """A trunk of fat and muscle with a spine; no two have one size and posture."""
    generator = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    stout, slim = generator.uniform(0.85, 1.05, 2)
    radius = np.hypot((y - 21) / (18 * stout), (x - 25) / (22 * slim))
    wave = generator.uniform(0.5, 2) * np.sin(z / 26 * generator.uniform(2, 9))
    spine = np.hypot(y - SPINE[1], x - SPINE[2] - wave) * SPACING_MM
    hu = np.select([spine < 13, spine < 19, radius < 0.85, radius < 1], [120, 700, 50, -100], -1000)
    hu = hu + generator.normal(0, 15, SHAPE)
    return Volume.from_spacing(np.rint(hu).astype(np.int16), (SPACING_MM,) * 3)


def ball(*centres: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    for label, centre in enumerate(centres, start=1):
        grid = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
        labels[(grid**2).sum(axis=0) <= 6] = label
    return labels


def write(folder: Path, name: str, volume: Volume, labels: np.ndarray | None, **row: str) -> Row:
    write_volume(folder / f"{name}.nii", volume)
    written = {
        "patient_id": name, "image": f"{name}.nii", "centre": "A", "primary": "lung",
        "scan_id": name, "split": "train", "mask_kind": "instance",
    }  # fmt: skip
    if labels is not None:
        write_labels(folder / f"{name}_mask.nii", volume.with_voxels(labels))
        written["mask"] = f"{name}_mask.nii"
    return {**written, **row}


def write_table(folder: Path, rows: list[Row]) -> Path:
    with (folder / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cohort.csv"


def sound(folder: Path, count: int) -> list[Row]:
    """Patients without fault; every other one has lung cancer."""
    return [
        write(
            folder, f"sound{n}", patient(n), ball((5 + n, *SPINE[1:])), primary=("lung", "other")[n % 2],
            split=("train", "val")[n % 3 == 2], sex="FM"[n // 2 % 2],
        )
        for n in range(count)
    ]  # fmt: skip


def spoilt(folder: Path) -> list[Row]:
    """One row for each fault."""
    whole = ball(SPINE)
    halves = np.where((whole > 0) & (np.indices(SHAPE)[0] > SPINE[0]), 2, whole).astype(np.int16)
    clipped, eight = patient(50), patient(51)
    coarse = (np.rint(eight.voxels / 10) * 10).astype(np.int16)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
    oblique = patient(52)
    thick = patient(53)
    rows = [
        write(folder, "air", patient(40), ball(SPINE, AIR)),
        write(folder, "muscle", patient(41), ball(SPINE, MUSCLE)),
        write(folder, "touching", patient(42), halves),
        write(folder, "split", patient(43), ball(SPINE) + (ball((4, 28, 25)) > 0)),
        write(folder, "empty", patient(44), np.zeros(SHAPE, np.int16)),
        write(folder, "copy", patient(0), ball((14, 28, 25)), split="val", primary="other"),
        write(folder, "nearly", shifted(patient(1), 7), ball((15, 28, 25))),
        write(folder, "one", patient(45), ball((16, 28, 25)), patient_id="both"),
        write(folder, "two", patient(46), ball((17, 28, 25)), patient_id="both", split="val"),
        write(folder, "clipped", clipped.with_voxels(clipped.voxels.clip(-1024, 300)), whole),
        write(folder, "coarse", eight.with_voxels(coarse), ball((18, 28, 25))),
        write(folder, "offset", shifted(patient(47), 100), ball((19, 28, 25))),
        write(folder, "nobody", shifted(patient(48), 0, air=True), whole * 0),
        write(
            folder,
            "thick",
            Volume(thick.voxels, thick.affine @ np.diag([4.0, 1, 1, 1])),
            ball((20, 28, 25)),
        ),
        write(folder, "oblique", Volume(oblique.voxels, turn @ oblique.affine), whole),
        write(folder, "grid", patient(54), whole, mask="thick_mask.nii"),
        write(folder, "missing", patient(55), whole, image="nothing.nii"),
        write(folder, "damaged", patient(56), whole),
        write(folder, "boxed", patient(57), None, mask_kind="auto", boxes="boxes.csv"),
    ]
    (folder / "boxes.csv").write_text("x1,y1,z1,x2,y2,z2\n-900,0,0,-880,20,20\n")
    (folder / "damaged.nii").write_bytes(b"nothing of use")
    return rows


def shifted(volume: Volume, by: int, *, air: bool = False) -> Volume:
    voxels = np.minimum(volume.voxels, -950) if air else volume.voxels + np.int16(by)
    return volume.with_voxels(voxels)


EXPECTED = {
    "lesion outside the body": ("air", "error"),
    "lesion outside bone": ("muscle", "warning"),
    "touching lesions": ("touching", "warning"),
    "split lesion": ("split", "warning"),
    "empty mask": ("empty", "note"),
    "same image twice": ("copy", "error"),
    "nearly the same image": ("nearly", "warning"),
    "same mask twice": ("oblique", "warning"),
    "patient on two sides": ("one", "error"),
    "clipped HU": ("clipped", "warning"),
    "coarse HU": ("coarse", "warning"),
    "doubtful HU": ("offset", "warning"),
    "no body": ("nobody", "error"),
    "thick slices": ("thick", "error"),
    "oblique grid": ("oblique", "warning"),
    "unusable annotation": ("grid", "error"),
    "unreadable scan": ("damaged", "error"),
    "boxes outside the scan": ("boxed", "error"),
}


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments])
    if isinstance(result.exception, InputError):  # main() turns it into a line and a 2
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    return write_table(folder, [*sound(folder, 8), *spoilt(folder)])


def test_every_fault_is_found_and_shown(broken: Path, tmp_path: Path) -> None:
    code, output = run("doctor", broken, "-o", tmp_path / "out")
    assert code == 1, output
    assert "Not fit for training" in output
    checkup = json.loads((tmp_path / "out" / "doctor.json").read_text())
    found = defaultdict(set)
    for finding in checkup["findings"]:
        found[finding["check"]].update((scan, finding["severity"]) for scan in finding["scans"])
    for check, expected in EXPECTED.items():
        assert expected in found[check], f"{check}: {found[check]}"
    faults = [one["found"] for one in checkup["findings"] if one["check"] == "faulty row"]
    assert len(faults) == 1
    assert "nothing.nii" in faults[0]
    page = (tmp_path / "out" / "doctor.html").read_text(encoding="utf-8")
    for check, (scan, _) in EXPECTED.items():
        assert check[:1].upper() + check[1:] in page
        assert scan in page
    blamed = {
        (check, scan) for check, scans in found.items() for scan, _ in scans if "sound" in scan
    }
    assert {one for one in blamed if one[0] != "wide pixels"} == {
        ("same image twice", "sound0"),
        ("nearly the same image", "sound1"),
    }


def test_a_sound_cohort_is_fit_and_a_second_run_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_table(tmp_path, sound(tmp_path, 6))
    code, output = run("doctor", cohort, "-o", tmp_path / "out")
    assert (code, "Fit for training" in output) == (0, True)
    before = (tmp_path / "out" / "doctor.html").read_bytes()
    monkeypatch.setattr(sitk, "ReadImage", None)
    assert run("doctor", cohort, "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "doctor.html").read_bytes() == before


def test_what_cannot_be_used_ends_with_two(tmp_path: Path) -> None:
    assert run("doctor", tmp_path / "none.csv", "-o", tmp_path / "out")[0] == 2
    (tmp_path / "cohort.csv").write_text("patient_id,image\np1,a.nii\n")
    code, message = run("doctor", tmp_path / "cohort.csv", "-o", tmp_path / "out")
    assert (code, "lacks the column" in message) == (2, True)
