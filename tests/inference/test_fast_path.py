"""Whatever makes prediction faster leaves the findings as the plain way makes them."""

import numpy as np
import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.inference import pipeline
from osteomet.inference.pipeline import Prediction, Predictor
from osteomet.io.scan_record import Scan, describe
from osteomet.models.backbones.convnextv2 import GlobalResponseNorm
from osteomet.simulate.patient import simulate_patient

TOLERANCE = 1e-4
"""Of scores and probabilities, and of boxes in voxels: rounding, and nothing else."""


def _plainly(self: GlobalResponseNorm, project: nn.Linear, x: Tensor) -> Tensor:
    result: Tensor = project(self(F.gelu(x)))
    return result


def test_findings_are_those_of_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = simulate_patient(4).volume
    scan = Scan(volume, describe(volume, source="simulated", file_format="nifti"))
    # The lowest threshold measures every candidate.
    predictor = Predictor(device="cpu", operating_threshold=0.0)
    fast = predictor.predict(scan)
    monkeypatch.setattr(GlobalResponseNorm, "then", _plainly)
    monkeypatch.setattr(pipeline, "with_small_masks", lambda found: found)
    _check_same(fast, predictor.predict(scan))


def test_tiles_made_ahead_of_a_device_are_those_of_the_threads() -> None:
    volume = simulate_patient(4).volume
    scan = Scan(volume, describe(volume, source="simulated", file_format="nifti"))
    predictor = Predictor(device="cpu", operating_threshold=0.0)
    predictor.config = predictor.config.updated({"inference.tile_size": (96, 96, 96)})
    fast = predictor.predict(scan)
    predictor.tile_per_thread = False
    _check_same(fast, predictor.predict(scan))


def _check_same(fast: Prediction, plain: Prediction) -> None:
    assert len(plain.findings.candidates) > 3
    assert len(fast.findings.candidates) == len(plain.findings.candidates)
    for one, other in zip(fast.findings.candidates, plain.findings.candidates, strict=True):
        assert one.score == pytest.approx(other.score, abs=TOLERANCE)
        assert one.p_lung == pytest.approx(other.p_lung, abs=TOLERANCE)
        np.testing.assert_allclose(one.box_vox, other.box_vox, atol=0.01)
    assert fast.findings.primary.p_lung == pytest.approx(
        plain.findings.primary.p_lung, abs=TOLERANCE
    )
    different = fast.labels.whole().voxels != plain.labels.whole().voxels
    assert different.sum() <= TOLERANCE * (plain.labels.whole().voxels > 0).sum()
