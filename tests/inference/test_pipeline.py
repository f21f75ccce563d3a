"""A scan in, findings out: what is in them, and what is said where little can be found."""

from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import (
    AIR_HU,
    CENTRE,
    LESION_HU,
    LESIONS,
    BlobFinder,
    blob_weights,
    ellipsoid,
    patient,
    scan_of,
    torso,
)
from torch import nn

from osteomet.errors import ConfigError
from osteomet.findings import Findings
from osteomet.inference.devices import choose_device
from osteomet.inference.pipeline import Predictor
from osteomet.inference.resources import StageClock, peak_memory_mb
from osteomet.io.scan import read_scan
from osteomet.io.scan_record import Scan
from osteomet.io.volumes import write_volume
from osteomet.models.primary import PrimaryModel
from osteomet.volume import Volume


def predictor(**settings: object) -> Predictor:
    return Predictor(blob_weights(**settings), "cpu", detector=BlobFinder())


def test_every_lesion_is_found_once_and_measured() -> None:
    prediction = predictor().predict(scan_of(patient()))
    findings = prediction.findings
    assert len(findings.lesions) == len(findings.candidates) == 2
    assert set(np.unique(prediction.labels.whole().voxels)) == {0, 1, 2}
    by_height = sorted(findings.lesions, key=lambda lesion: lesion.centroid_lps_mm[2])
    for lesion, (centre, radii) in zip(by_height, LESIONS, strict=True):
        assert lesion.centroid_lps_mm == pytest.approx(centre, abs=0.5)
        assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * np.prod(radii) / 1000, rel=0.15)
    assert findings.primary.p_lung == pytest.approx(0.25)
    assert "mean" in findings.primary.aggregation
    assert findings.warnings == ()


def test_findings_survive_json_and_say_how_they_were_made() -> None:
    findings = predictor().predict(scan_of(patient())).findings
    assert Findings.from_json(findings.to_json()) == findings
    made = findings.provenance
    stages = {"read", "tiles", "model", "merge", "lesions", "primary"}
    assert set(made.seconds) == {*stages, "total"}
    assert made.seconds["total"] == pytest.approx(sum(made.seconds[s] for s in stages), abs=0.01)
    assert made.peak_memory_mb > 50
    assert (made.weights, made.device) == ("blobs", "cpu")


def test_the_same_scan_gives_the_same_findings_whatever_the_file(tmp_path: Path) -> None:
    volume = patient()
    write_volume(tmp_path / "patient.nii.gz", volume)
    direct = predictor().predict(scan_of(volume)).findings
    read = predictor().predict(tmp_path / "patient.nii.gz").findings
    assert read.scan_id == direct.scan_id == "patient"
    for a, b in zip(read.lesions, direct.lesions, strict=True):
        assert a.centroid_lps_mm == pytest.approx(b.centroid_lps_mm, abs=1e-3)


def test_a_scan_without_bone_has_no_lesion_but_a_warning() -> None:
    air = Volume.from_spacing(np.full((60, 100, 100), AIR_HU, np.int16), (2.0, 1.0, 1.0))
    finder = BlobFinder()
    prediction = Predictor(blob_weights(), "cpu", detector=finder).predict(scan_of(air))
    assert prediction.findings.lesions == prediction.findings.candidates == ()
    assert prediction.findings.primary.p_lung is None
    assert "no bone found" in prediction.findings.warnings[0]
    assert finder.seen == []


def test_coarse_slices_and_a_small_field_are_warned_of() -> None:
    thick = Volume.from_spacing(np.full((8, 40, 100), AIR_HU, np.int16), (5.0, 2.5, 1.0))
    warnings = predictor().predict(scan_of(thick)).findings.warnings
    assert any("5.0 mm apart" in warning for warning in warnings)
    assert any("only 40 mm" in warning for warning in warnings)


def test_warnings_of_the_reader_come_first() -> None:
    scan = scan_of(patient())
    doubtful = Scan(scan.volume, scan.info, ("slice 7 was repeated",))
    assert predictor().predict(doubtful).findings.warnings[0] == "slice 7 was repeated"


def test_scans_without_a_lesion_give_an_empty_label_map_and_no_primary() -> None:
    healthy = torso(patient().with_voxels(np.full((100, 100, 100), AIR_HU, np.int16)), CENTRE)
    prediction = predictor().predict(scan_of(healthy))
    assert prediction.findings.lesions == ()
    assert prediction.findings.primary.p_lung is None
    assert not prediction.labels.whole().voxels.any()


def test_a_given_threshold_replaces_that_of_the_weights() -> None:
    strict = Predictor(blob_weights(), "cpu", operating_threshold=0.95, detector=BlobFinder())
    findings = strict.predict(scan_of(patient())).findings
    assert len(findings.candidates) == 2
    assert findings.lesions == ()
    assert findings.provenance.operating_threshold == 0.95


def test_progress_counts_tiles_no_larger_than_the_settings_say() -> None:
    finder, calls = BlobFinder(), []
    Predictor(blob_weights(), "cpu", detector=finder).predict(
        scan_of(patient()), progress=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert len(finder.seen) == len(calls)
    assert all(max(sides) <= 64 and images == 1 for images, _, *sides in finder.seen)


def test_the_second_stage_of_the_weights_predicts_the_primary() -> None:
    torch.manual_seed(0)
    primary = PrimaryModel(features=4 + 4 + 2, members=3)
    nn.init.normal_(primary.bias)
    weights = blob_weights()
    weights = type(weights)(**{**vars(weights), "primary_state": primary.state_dict()})
    found = Predictor(weights, "cpu", detector=BlobFinder()).predict(scan_of(patient())).findings
    assert found.primary.interval is not None
    assert found.primary.interval[0] <= (found.primary.p_lung or 0) <= found.primary.interval[1]
    assert found.primary.training_prior_lung == 0.5
    rare = Predictor(weights, "cpu", prior_lung=0.01, detector=BlobFinder())
    moved = rare.predict(scan_of(patient())).findings.primary
    assert (moved.p_lung or 1) < 0.2
    assert (found.primary.assumed_prior_lung, moved.assumed_prior_lung) == (0.5, 0.01)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="expected one of auto, cpu, cuda, mps"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds none on this machine"):
            choose_device("cuda")
        assert choose_device("auto") == torch.device("cpu")


def test_a_stage_entered_twice_adds_up_and_memory_is_that_of_a_python_process() -> None:
    clock = StageClock(torch.device("cpu"))
    for _ in range(2):
        with clock.stage("nothing"):
            pass
    assert list(clock.seconds) == ["nothing"]
    assert 50 < peak_memory_mb() < 100_000


def test_reading_is_part_of_the_story(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", patient())
    scan = read_scan(tmp_path / "a.nii.gz")
    assert predictor().predict(scan, "given").findings.scan_id == "given"


def test_what_a_tile_shows_far_from_bone_is_no_candidate() -> None:
    volume = patient()
    volume.voxels[ellipsoid(volume, (6.0, 6.0, 75.0), (1.6, 1.6, 1.6))] = LESION_HU
    centres = [one.centroid_lps_mm for one in predictor().predict(scan_of(volume)).findings.lesions]
    assert len(centres) == 2
    assert all(abs(x - 50) < 5 for x, _, _ in centres)


def test_detections_stay_beside_the_findings_for_the_second_stage() -> None:
    prediction = predictor().predict(scan_of(patient()))
    assert len(prediction.detections) == len(prediction.findings.candidates)
    scores = [lesion.score for lesion in prediction.findings.lesions]
    assert prediction.reported.scores.tolist() == pytest.approx(scores)
    assert prediction.renamed("other").findings.scan_id == "other"
