"""Many small lesions in a large scan: no work and no memory of lesions times volume."""

import tracemalloc
from typing import Any

import numpy as np
import torch
from blobs import scan_of
from torch.overrides import TorchFunctionMode

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import ModelGrid
from osteomet.findings import Findings, PrimaryPrediction, Provenance
from osteomet.inference.lesions import MeasuredLesions, measure_lesions
from osteomet.inference.merge import merge_detections
from osteomet.reporting.html import render_report
from osteomet.structures import Detections
from osteomet.volume import Volume

SIDE, MANY = 300, 200
CONFIG = InferenceConfig().model_copy(update={"max_candidates": 1000})
PROVENANCE = Provenance(
    osteomet_version="0", torch_version="0", weights="none", weights_sha256="", config_sha256="",
    device="cpu", started_utc="", seconds={}, peak_memory_mb=0.0, operating_threshold=0.5,
)  # fmt: skip


class Watched(np.ndarray):
    """Counts the values that operations with it read; indexing it gives a watched view."""

    read = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        Watched.read += sum(one.size for one in inputs if isinstance(one, Watched))
        plain = [np.asarray(one) if isinstance(one, Watched) else one for one in inputs]
        return getattr(ufunc, method)(*plain, **options)


class Written(TorchFunctionMode):
    """Counts the values that torch's functions give."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = func(*args, **(kwargs or {}))
        parts = given if isinstance(given, tuple | list) else [given]
        self.values += sum(part.numel() for part in parts if isinstance(part, torch.Tensor))
        return given


def large_scan() -> Volume:
    """Return water on a large grid, which takes no memory."""
    hu = np.broadcast_to(np.zeros((), np.int16), (SIDE,) * 3).view(Watched)
    return Volume.from_spacing(hu, (1.0, 1.0, 1.0))


def planted(count: int) -> Detections:
    """Return cubes of 5 voxels, each apart from all others."""
    places = np.stack(np.meshgrid(*[np.arange(10, SIDE - 10, 40)] * 3), axis=-1).reshape(-1, 3)
    low = torch.from_numpy(places[np.arange(count) * len(places) // count]).float()
    boxes = torch.cat([low, low + 5], dim=1)
    return Detections(
        boxes,
        scores=torch.full((count,), 0.9),
        p_lung=torch.full((count,), 0.3),
        embeddings=torch.zeros(count, 2),
        attributes=torch.zeros(count, 0),
        mask_boxes=boxes,
        masks=torch.ones(count, 8, 8, 8),
    )


def measured(count: int, scan: Volume) -> MeasuredLesions:
    bounds = torch.tensor([[0, 0, 0, SIDE, SIDE, SIDE]]).float()
    merged = merge_detections([planted(count)], bounds, scan.shape, CONFIG)
    return measure_lesions(merged, scan, ModelGrid.of(scan, 1.0), CONFIG)


def test_what_is_measured_is_as_large_as_the_lesions() -> None:
    scan = large_scan()
    with Written():
        measured(1, scan)  # imports and compiles
    Watched.read = 0
    tracemalloc.start()
    try:
        with Written() as written:
            found = measured(MANY, scan)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.lesions) == MANY
    assert sum(one.mask.sum() for one in found.labels.instances) == 125 * MANY
    assert peak < SIDE**3 / 3
    assert 0 < written.values < SIDE**3 / 5
    assert 0 < Watched.read < SIDE**3 / 100


def test_pictures_look_only_at_what_they_show() -> None:
    scan, read = large_scan(), {}
    for count in (1, MANY):
        found = measured(count, scan)
        findings = Findings(
            scan_id="many",
            series=scan_of(scan).info,
            candidates=found.candidates,
            lesions=found.lesions,
            primary=PrimaryPrediction(p_lung=None, aggregation="none"),
            provenance=PROVENANCE,
        )
        Watched.read = 0
        page = render_report(findings, scan, found.labels)
        assert page.count("<svg") > 3
        read[count] = Watched.read
    # Projections look at the whole scan once each; no lesion does.
    assert read[1] >= 2 * SIDE**3
    assert read[MANY] - read[1] < SIDE**3 / 100
