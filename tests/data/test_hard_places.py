"""Hard backgrounds are what a model found and no lesion is near."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_scans import write_case

from osteomet.data.hard_places import false_positives, touch
from osteomet.data.store import StoredScan, build_store
from osteomet.errors import InputError
from osteomet.findings import (
    Candidate,
    Findings,
    PrimaryPrediction,
    Provenance,
    SeriesInfo,
)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> StoredScan:
    folder = tmp_path_factory.mktemp("scan")
    return build_store([write_case(folder)], folder / "store", 1.0).scans[0]


def test_touching_is_sharing_a_place() -> None:
    box = np.array([[0.0, 0, 0, 4, 4, 4]])
    others = np.array([[4.0, 0, 0, 8, 4, 4], [3.0, 3, 3, 5, 5, 5]])
    assert touch(others, box).tolist() == [False, True]
    assert touch(box, others[:0]).tolist() == [False]
    assert touch(box[:0], others).tolist() == []


def write_findings(folder: Path, scan: StoredScan, found: list[tuple[list[float], float]]) -> None:
    boxes = scan.grid.boxes_to_native(np.array([box for box, _ in found]).reshape(-1, 6))
    candidates = tuple(
        Candidate(box_vox=tuple(box), score=score, p_lung=0.5, mask=None)
        for box, (_, score) in zip(boxes.tolist(), found, strict=True)
    )
    series = SeriesInfo(
        source="a.nii", format="nifti", shape_zyx=scan.grid.native_shape,
        spacing_zyx_mm=(1.0, 1.0, 1.0),
        affine_lps=tuple(map(tuple, scan.grid.native_affine.tolist())),
    )  # fmt: skip
    made = Provenance(
        osteomet_version="0", torch_version="0", weights="w", weights_sha256="0",
        config_sha256="0", device="cpu", started_utc="2026-01-01T00:00:00Z", seconds={},
        peak_memory_mb=1.0, operating_threshold=0.5,
    )  # fmt: skip
    findings = Findings(
        scan_id=scan.case.scan_id, series=series, candidates=candidates, lesions=(),
        primary=PrimaryPrediction(p_lung=None, aggregation="none"), provenance=made,
    )  # fmt: skip
    (folder / scan.case.scan_id).mkdir(parents=True)
    (folder / scan.case.scan_id / "findings.json").write_text(findings.to_json())


def test_false_positives_are_what_touches_no_lesion(scan: StoredScan, tmp_path: Path) -> None:
    wrong, weak, right = (
        [4.0, 30, 8, 12, 36, 16],
        [20.0, 2, 2, 24, 6, 6],
        [31.0, 21, 21, 40, 30, 28],
    )
    write_findings(tmp_path, scan, [(right, 0.9), (wrong, 0.6), (weak, 0.06)])
    places = false_positives(tmp_path, [scan])
    assert list(places) == ["a"]
    assert places["a"] == pytest.approx(np.array([wrong]))


def test_regions_to_ignore_are_no_hard_places(scan: StoredScan, tmp_path: Path) -> None:
    write_findings(tmp_path, scan, [([4.0, 30, 8, 12, 36, 16], 0.6)])
    ignored = replace(scan, ignore=np.array([[0.0, 0, 0, 10, 40, 40]]))
    assert false_positives(tmp_path, [ignored]) == {}


def test_a_scan_without_false_positives_is_left_out(scan: StoredScan, tmp_path: Path) -> None:
    write_findings(tmp_path, scan, [])
    assert false_positives(tmp_path, [scan]) == {}


def test_results_must_be_there_and_of_this_scan(scan: StoredScan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"findings\.json: is missing; .* --split train first"):
        false_positives(tmp_path, [scan])
    other = replace(scan, grid=replace(scan.grid, native_shape=(9, 9, 9)))
    write_findings(tmp_path, other, [])
    with pytest.raises(InputError, match=r"image of \(9, 9, 9\) voxels, the scan has"):
        false_positives(tmp_path, [scan])
