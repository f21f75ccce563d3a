"""nnU-Net itself takes an export: its check, fingerprint, plan, preprocessing and split.

nnU-Net has an environment of its own: OSTEOMET_NNUNET names the Python of one that has nnunetv2.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_cohorts import simulated

from osteomet.data.annotations import instances_on_scan
from osteomet.data.exports import export_cohort
from osteomet.data.manifest import Case, read_cohort
from osteomet.data.manifest_writer import write_cohort
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels

PYTHON = os.environ.get("OSTEOMET_NNUNET")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="OSTEOMET_NNUNET names no Python that has nnunetv2"
)

NAME = "Dataset501_Bone"
OPEN_IT = """
import json, sys
from pathlib import Path

import numpy as np
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


class Quick(DatasetFingerprintExtractor):
    # Draws 100 million voxels else, which for six small scans takes a gigabyte.
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.num_foreground_voxels_for_intensitystats = 1e5


if __name__ == "__main__":
    name, answer = sys.argv[1:]
    raw, done = Path(str(nnUNet_raw)) / name, Path(str(nnUNet_preprocessed)) / name
    number = int(name[7:10])
    fingerprint = api.extract_fingerprint_dataset(
        number, Quick, num_processes=1, check_dataset_integrity=True, show_progress_bar=False
    )
    plans, _ = api.plan_experiment_dataset(number)
    api.preprocess_dataset(
        number, configurations=["3d_fullres"], num_processes=[1], show_progress_bar=False
    )
    manager = PlansManager(plans)
    labels_of = manager.get_label_manager(json.loads((raw / "dataset.json").read_text()))
    folder = str(done / manager.get_configuration("3d_fullres").data_identifier)
    data = infer_dataset_class(folder)(folder)
    cases = {}
    for case in data.identifiers:
        image, labels, _, properties = data.load_case(case)
        found = np.unique(np.asarray(labels)).astype(int)
        cases[case] = {
            "labels": found[found >= 0].tolist(),
            "spacing": list(properties["spacing"]),
            "shape": list(properties["shape_before_cropping"]),
        }
    plan = plans["configurations"]["3d_fullres"]
    seen = {
        "cases": cases,
        "classes": labels_of.foreground_labels,
        "ignore": labels_of.ignore_label,
        "spacings": fingerprint["spacings"],
        "intensity": fingerprint["foreground_intensity_properties_per_channel"][0],
        "spacing": plan["spacing"],
        "normalisation": plan["normalization_schemes"],
    }
    Path(answer).write_text(json.dumps(seen, default=float))
"""


def opened(cohort: Path, folder: Path, *, by_primary: bool) -> dict[str, Any]:
    """Export a cohort, and return what nnU-Net says of it."""
    assert PYTHON is not None
    export_cohort("nnunet", cohort, folder / "raw" / NAME, by_primary=by_primary)
    script = folder / "open_it.py"
    script.write_text(OPEN_IT, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        f"nnUNet_{one}": str(folder / one) for one in ("raw", "preprocessed", "results")
    }
    environment |= {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, str(script), NAME, str(folder / "seen.json")],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify_dataset_integrity Done" in done.stdout
    assert "Error:" not in done.stdout, done.stdout
    assert "Warning:" not in done.stdout, done.stdout
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    return seen


def lesion_hu(case: Case) -> np.ndarray:
    volume = read_scan(case.image).volume
    hu: np.ndarray = volume.voxels[instances_on_scan(case, volume)[0] > 0]
    return hu


def check_cases(seen: dict[str, Any], folder: Path, cases: list[Case]) -> None:
    """Check which scans nnU-Net has, their grids and their sides."""
    assert sorted(seen["cases"]) == sorted(case.scan_id for case in cases)
    spacings = []
    for case in cases:
        volume = read_scan(case.image).volume
        one = seen["cases"][case.scan_id]
        np.testing.assert_allclose(one["spacing"], volume.spacing_zyx_mm, rtol=1e-5)
        assert tuple(one["shape"]) == volume.shape
        spacings.append(volume.spacing_zyx_mm)
    np.testing.assert_allclose(sorted(seen["spacings"]), sorted(map(list, spacings)), rtol=1e-5)
    sides = {
        side: sorted(case.scan_id for case in cases if case.split == side)
        for side in ("train", "val")
    }
    assert all(sides.values())
    folds = json.loads((folder / "raw" / NAME / "splits_final.json").read_text(encoding="utf-8"))
    # nnU-Net takes the first of these as fold 0, by the names of its own cases.
    assert folds == [sides]
    assert seen["normalisation"] == ["CTNormalization"]


def test_one_class(tmp_path: Path) -> None:
    path = simulated(tmp_path / "cohort")
    cases = [case for case in read_cohort(path).cases if case.split != "test"]
    assert {case.primary.value for case in cases} == {"lung", "other"}
    seen = opened(path, tmp_path, by_primary=False)
    check_cases(seen, tmp_path, cases)
    assert (seen["classes"], seen["ignore"]) == ([1], None)
    hu = {case.scan_id: lesion_hu(case) for case in cases}
    for name, values in hu.items():
        assert seen["cases"][name]["labels"] == ([0, 1] if len(values) else [0])
    assert sum(not len(values) for values in hu.values()) == 1
    # It draws as many voxels from each scan that has any.
    mean = np.mean([values.mean() for values in hu.values() if len(values)])
    assert seen["intensity"]["mean"] == pytest.approx(mean, abs=3)


def test_classes_by_primary_and_regions_to_ignore(tmp_path: Path) -> None:
    path = simulated(tmp_path / "cohort")
    cases = list(read_cohort(path).cases)
    marked = next(n for n, case in enumerate(cases) if case.split == "train")
    grid = read_scan(cases[marked].image).volume
    corner = np.zeros(grid.shape, dtype=np.uint8)
    corner[:6, :6, :6] = 1
    write_labels(path.parent / "ignore.nii.gz", grid.with_voxels(corner))
    cases[marked] = replace(cases[marked], ignore=path.parent / "ignore.nii.gz")
    write_cohort(path, cases)
    seen = opened(path, tmp_path, by_primary=True)
    check_cases(seen, tmp_path, [case for case in cases if case.split != "test"])
    assert (seen["classes"], seen["ignore"]) == ([1, 2], 3)
    numbers = {PrimaryTumour.LUNG: 1, PrimaryTumour.OTHER: 2}
    for number, case in enumerate(cases):
        if case.split != "test":
            wanted = {0} | ({numbers[case.primary]} if len(lesion_hu(case)) else set())
            wanted |= {3} if number == marked else set()
            assert set(seen["cases"][case.scan_id]["labels"]) == wanted
