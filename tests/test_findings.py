"""findings.json: what is written is read again, and what is wrong is named."""

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osteomet import findings as module
from osteomet.errors import InputError
from osteomet.findings import (
    Candidate,
    Findings,
    HUStatistics,
    Lesion,
    PrimaryPrediction,
    PrimaryTumour,
    Provenance,
    RunLengthMask,
    SeriesInfo,
)

BOX = (1.0, 2.0, 3.0, 3.0, 4.0, 6.0)


def example(lesions: int = 1) -> Findings:
    mask = RunLengthMask.encode(np.ones((2, 2, 3), bool), (1, 2, 3))
    candidate = Candidate(box_vox=BOX, score=0.9, p_lung=0.3, mask=mask)
    weak = Candidate(box_vox=BOX, score=0.06, p_lung=0.5, mask=None)
    measured = [
        Lesion(
            id=f"L{label}",
            label=label,
            candidate=label - 1,
            score=0.9,
            p_lung=0.3,
            box_vox=BOX,
            box_lps_mm=(-10.0, 5.0, 40.5, -7.0, 7.0, 42.5),
            centroid_lps_mm=(-8.5, 6.0, 41.5),
            volume_ml=0.012,
            longest_diameter_mm=3.7,
            hu=HUStatistics(mean=340.0, std=80.5, p5=210.0, median=338.0, p95=500.0),
        )
        for label in range(1, lesions + 1)
    ]
    return Findings(
        scan_id="case-7",
        series=SeriesInfo(
            source="case-7.nii.gz",
            format="nifti",
            shape_zyx=(40, 64, 64),
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            affine_lps=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)),
        ),
        candidates=(*[candidate] * lesions, weak),
        lesions=tuple(measured),
        primary=PrimaryPrediction(
            p_lung=0.42 if lesions else None,
            interval=(0.2, 0.61) if lesions else None,
            aggregation="mean",
            training_prior_lung=0.4,
        ),
        warnings=("voxels are up to 5.0 mm apart",),
        provenance=Provenance(
            osteomet_version="0.1.0",
            torch_version="2",
            weights="some",
            weights_sha256="0" * 64,
            config_sha256="1" * 64,
            device="cpu",
            started_utc="2026-01-01T00:00:00+00:00",
            seconds={"read": 0.5, "total": 3.25},
            peak_memory_mb=800.5,
            operating_threshold=0.5,
        ),
    )


class TestRunLengthMask:
    @pytest.mark.parametrize("seed", range(10))
    @pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
    def test_round_trip(self, seed: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        mask = rng.random(rng.integers(1, 9, 3)) < share
        encoded = RunLengthMask.encode(mask, (4, 0, 2))
        assert np.array_equal(encoded.decode(), mask)
        assert encoded.offset_zyx == (4, 0, 2)
        assert encoded.counts == by_hand(mask)

    @pytest.mark.parametrize(
        ("values", "counts"),
        [
            ([0, 0, 0, 0], (4,)),
            ([1, 1, 1, 1], (0, 4)),
            ([1, 0, 0, 1], (0, 1, 2, 1)),
            ([0, 1, 1, 0], (1, 2, 1)),
            ([0], (1,)),
            ([1], (0, 1)),
        ],
    )
    def test_counts(self, values: list[int], counts: tuple[int, ...]) -> None:
        mask = np.array(values, bool).reshape(1, 1, -1)
        encoded = RunLengthMask.encode(mask, (0, 0, 0))
        assert encoded.counts == counts
        assert np.array_equal(encoded.decode(), mask)

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 1), (0, 0, 0)])
    def test_box_without_voxels(self, shape: tuple[int, int, int]) -> None:
        encoded = RunLengthMask.encode(np.zeros(shape, bool), (0, 0, 0))
        assert encoded.decode().shape == shape

    def test_runs_along_x_first(self) -> None:
        mask = np.zeros((2, 2, 3), bool)
        mask[0, 1, 2] = mask[1, 0, 0] = True  # neighbours in C order
        assert RunLengthMask.encode(mask, (0, 0, 0)).counts == (5, 2, 5)

    def test_memory_order_does_not_matter(self) -> None:
        mask = np.random.default_rng(0).random((4, 5, 6)) < 0.4
        turned = np.asfortranarray(mask)
        assert RunLengthMask.encode(turned, (0, 0, 0)) == RunLengthMask.encode(mask, (0, 0, 0))

    @pytest.mark.parametrize(
        "change",
        [
            {"counts": (3, 2)},
            {"counts": (-1, 7)},
            {"shape_zyx": (1, 2, 4)},
            {"shape_zyx": (-1, -2, 3)},
            {"offset_zyx": (-1, 0, 0)},
        ],
    )
    def test_what_cannot_be_decoded_is_refused(self, change: dict[str, Any]) -> None:
        fields = {"offset_zyx": (0, 0, 0), "shape_zyx": (1, 2, 3), "counts": (1, 5)}
        RunLengthMask(**fields)
        with pytest.raises(ValueError, match="RunLengthMask"):
            RunLengthMask(**fields | change)


def by_hand(mask: np.ndarray) -> tuple[int, ...]:
    counts, value = [0], False
    for voxel in mask.ravel().tolist():
        if voxel != value:
            counts.append(0)
            value = voxel
        counts[-1] += 1
    return tuple(counts)


class TestJSON:
    @pytest.mark.parametrize("lesions", [0, 1, 3])
    def test_round_trip(self, lesions: int, tmp_path: Path) -> None:
        findings = example(lesions)
        path = tmp_path / "findings.json"
        path.write_text(findings.to_json(), encoding="utf-8")
        assert Findings.read(path) == findings

    def test_says_what_it_is(self) -> None:
        content = json.loads(example().to_json())
        assert content["schema_version"] == module.SCHEMA_VERSION
        assert "Not a medical device" in content["research_use_only"]
        assert content["series"]["series_uid"] is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.update(schema_version=2), "schema_version: .*expected a findings.json"),
            (lambda c: c.update(note="hello"), "note: Extra inputs are not permitted"),
            (lambda c: c.pop("candidates"), "candidates: Field required"),
            (lambda c: c["lesions"][0].update(score=1.2), "lesions.0.score: .*less than or equal"),
            (lambda c: c["lesions"][0].update(label=0), "lesions.0.label: .*greater than or equal"),
            (lambda c: c["lesions"][0].update(candidate=2), "lesion L1 is candidate 2 of 2"),
            (lambda c: c["lesions"][0].update(volume_ml=math.nan), "lesions.0.volume_ml: .*finite"),
            (lambda c: c["candidates"][0].update(box_vox=[1, 2, 3]), "candidates.0.box_vox"),
            (lambda c: c["candidates"][0]["mask"].update(counts=[0, 11]), "runs of 11 voxels in a"),
            (lambda c: c["primary"].update(p_lung="lung"), "primary.p_lung: .*valid number"),
            (lambda c: c["series"].update(shape_zyx=[1.5, 2, 3]), "series.shape_zyx.0"),
        ],
    )
    def test_wrong_content_is_named(
        self, change: Callable[[dict[str, Any]], object], message: str
    ) -> None:
        content = json.loads(example().to_json())
        change(content)
        with pytest.raises(InputError, match=message):
            Findings.from_json(json.dumps(content), "there")

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '"findings"'])
    def test_other_documents(self, text: str) -> None:
        with pytest.raises(InputError, match=r"^there: the document: .*osteomet predict again"):
            Findings.from_json(text, "there")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"findings\.json: cannot be read: No such file"):
            Findings.read(tmp_path / "findings.json")

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "findings.json"
        path.write_bytes(b"\xff\xd8\xff\xe0")
        with pytest.raises(InputError, match="is not text in UTF-8"):
            Findings.read(path)


def test_findings_are_frozen() -> None:
    findings = example()
    with pytest.raises(ValueError, match="frozen"):
        findings.scan_id = "other"  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValueError, match="frozen"):
        findings.lesions[0].score = 0.1  # type: ignore[misc]  # the point of the test


def test_primaries_are_words() -> None:
    assert [one.value for one in PrimaryTumour] == ["lung", "other", "unknown"]


def test_needs_no_torch() -> None:
    """Whoever reads results need not install the network."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imports = [
        ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not [line for line in imports if "torch" in line]
