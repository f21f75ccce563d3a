"""From a CT scan to findings: the whole story in ``Predictor.predict``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16
from torch import nn

import osteomet
from osteomet.ahead import map_ahead
from osteomet.checkpoint import DEFAULT_WEIGHTS, LoadedWeights, load_into, load_weights
from osteomet.data.preprocess import ModelView
from osteomet.data.render_batch import normalise
from osteomet.findings import Findings, PrimaryPrediction, Provenance
from osteomet.inference.bone import BoneRegion, find_bone
from osteomet.inference.devices import choose_device
from osteomet.inference.lesions import measure_lesions
from osteomet.inference.merge import merge_detections
from osteomet.inference.resources import StageClock, peak_memory_mb
from osteomet.inference.scan_id import name_scan
from osteomet.inference.shared_threads import MOST_AT_ONCE, sharing_threads
from osteomet.inference.tiles import Tile, TilePlan, plan_tiles
from osteomet.io.scan import Scan, read_scan
from osteomet.label_map import LabelMap
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.models.primary import LesionBags, PrimaryModel
from osteomet.ops.freed_memory import give_back_freed_memory, keep_freed_memory
from osteomet.structures import Detections
from osteomet.volume import Volume

COARSE_SLICES_MM = 3.0
"""Slices further apart than this blur the smallest lesions away."""

SMALL_FIELD_MM = 96.0
"""A scan shorter than this shows the network less than it was trained to see."""

TILES_AT_ONCE = {"cpu": 1, "cuda": 4, "mps": 1}
"""On a CPU a batch gains nothing and costs memory."""

Progress = Callable[[int, int], None]
"""Called with the tiles done and the tiles in all."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is known about one scan, ready to be written.

    Attributes:
        findings: everything in words and numbers.
        scan: the scan as it was read.
        labels: instance labels on the scan's grid; ``Lesion.label`` names a lesion's value, and
            ``labels.whole()`` is an array of the scan's size.
        detections: the candidates, in the same order, in voxels of the model's grid and with
            the embeddings that the second stage reads.
    """

    findings: Findings
    scan: Scan
    labels: LabelMap
    detections: Detections

    @property
    def reported(self) -> Detections:
        """The detections that became lesions."""
        places = [lesion.candidate for lesion in self.findings.lesions]
        return self.detections[torch.tensor(places, dtype=torch.int64)]

    def renamed(self, scan_id: str) -> "Prediction":
        """Return the same prediction under another scan id."""
        findings = self.findings.model_copy(update={"scan_id": scan_id})
        return replace(self, findings=findings)


class Predictor:
    """Weights on a device, ready to find lesions in one scan after another.

    Args:
        weights: a bundled name, a path, or weights already loaded.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        operating_threshold: score above which a candidate is a lesion; None takes the one
            that was chosen on validation data and is kept in the weights.
        prior_lung: share of lung cancer among the patients to come; None keeps the training's.
        detector: another network with the ``forward`` of ``MaskRCNN``; None builds that of
            the weights.

    Raises:
        CheckpointError: the weights cannot be read.
        ConfigError: the device is not there.
    """

    def __init__(
        self,
        weights: str | Path | LoadedWeights = DEFAULT_WEIGHTS,
        device: str = "auto",
        *,
        operating_threshold: float | None = None,
        prior_lung: float | None = None,
        detector: nn.Module | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.weights = weights if isinstance(weights, LoadedWeights) else load_weights(weights)
        self.config = self.weights.config
        if operating_threshold is not None:
            name = "inference.operating_threshold"
            self.config = self.config.updated({name: operating_threshold})
        self.prior_lung = prior_lung
        self.detector = detector or _build_detector(self.weights)
        self.detector.to(self.device).eval()
        self.primary = _build_primary(self.weights)
        self.tile_per_thread = self.device.type == "cpu"
        if self.tile_per_thread:
            keep_freed_memory()  # every tile asks for the same sizes

    def predict(
        self,
        source: Path | Scan,
        scan_id: str | None = None,
        progress: Progress | None = None,
        clock: StageClock | None = None,
    ) -> Prediction:
        """Find the lesions of one scan, measure them, and predict the primary.

        Args:
            source: anything ``read_scan`` reads, or a scan already read.
            scan_id: name of the result; None makes one from the series.
            progress: told after each batch of tiles.
            clock: notes what each stage costs; None takes one that nobody else reads.

        Raises:
            InputError: the scan cannot be used.
        """
        clock, config = clock or StageClock(self.device), self.config
        started = datetime.now(UTC)
        with clock.stage("read"):
            scan = source if isinstance(source, Scan) else read_scan(source)
        with clock.stage("tiles"):
            view = ModelView.of(scan.volume, config.preprocess.spacing_mm)
            bone = find_bone(view, config.inference.bone_dilation_mm)
            tiles = plan_tiles(bone, config.inference, 2 ** max(config.model.neck.levels))
            give_back_freed_memory()  # of threads that are gone
        with clock.stage("model"):
            found = self.detect(view, bone, tiles, progress)
        with clock.stage("merge"):
            bounds = torch.from_numpy(tiles.bounds)
            merged = merge_detections(found, bounds, view.shape, config.inference)
        with clock.stage("lesions"):
            measured = measure_lesions(merged, scan.volume, view.grid, config.inference)
        with clock.stage("primary"):
            places = torch.tensor([one.candidate for one in measured.lesions], dtype=torch.int64)
            primary = self.predict_primary(merged[places])
        findings = Findings(
            scan_id=scan_id or name_scan(scan.info),
            series=scan.info,
            candidates=measured.candidates,
            lesions=measured.lesions,
            primary=primary,
            warnings=(*scan.warnings, *doubts(scan.volume, bone), *measured.warnings),
            provenance=self._provenance(started, clock),
        )
        return Prediction(findings, scan, measured.labels, merged)

    def detect(
        self, scan: ModelView, bone: BoneRegion, tiles: TilePlan, progress: Progress | None = None
    ) -> list[Detections]:
        """Run the network over the tiles of a scan.

        Returns:
            The detections of each tile that are near bone, in voxels of the model's grid, on
            the CPU, with masks of 16 bits.
        """
        found: list[Detections] = []
        with self._detected(scan, tiles) as results:
            for parts in results:
                found += (with_small_masks(near_bone(part, bone)) for part in parts)
                if progress is not None:
                    progress(len(found), len(tiles))
        return found

    @contextmanager
    def _detected(self, scan: ModelView, tiles: TilePlan) -> Iterator[Iterator[list[Detections]]]:
        """Yield what the network says of each batch of tiles, in order."""
        batches = tiles.batches(TILES_AT_ONCE[self.device.type])
        crops = partial(_crops, scan, tiles)
        if self.tile_per_thread:
            with sharing_threads(len(batches)) as each:
                yield each(lambda batch: self._detect_batch(crops(batch), batch), batches)
        else:  # the device has a queue of its own, which one thread keeps full
            yield map(self._detect_batch, map_ahead(crops, batches, MOST_AT_ONCE), batches)

    @torch.inference_mode()
    def _detect_batch(
        self, crops: Int16[np.ndarray, "tiles z y x"], batch: Sequence[Tile]
    ) -> list[Detections]:
        images = torch.from_numpy(crops).to(self.device)[:, None]
        with self._precision():
            detections, _ = self.detector(normalise(images, self.config.preprocess))
        found: list[Detections] = []
        for part, tile in zip(detections, batch, strict=True):
            z, y, x = (float(first) for first in tile.start)
            found.append(part.cpu().shifted((z, y, x)))
        return found

    def predict_primary(self, lesions: Detections) -> PrimaryPrediction:
        """Predict a patient's primary from all lesions above the operating threshold."""
        if self.primary is None:
            return _mean_of_lesions(lesions)
        aggregation = f"ensemble of {len(self.primary.bias)} evidence pooling models over lesions"
        prior = float(self.primary.prior)
        if len(lesions) == 0:
            return PrimaryPrediction(
                p_lung=None, aggregation=aggregation, training_prior_lung=prior
            )
        p_lung, bounds = self.primary.predict(
            LesionBags.from_detections([lesions]), self.prior_lung
        )
        low, high = bounds[0].tolist()
        return PrimaryPrediction(
            p_lung=float(p_lung[0]),
            interval=(low, high),
            aggregation=aggregation,
            training_prior_lung=prior,
            prior_lung=self.prior_lung,
        )

    def _precision(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the GPU has it, else in float32."""
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _provenance(self, started: datetime, clock: StageClock) -> Provenance:
        return Provenance(
            osteomet_version=osteomet.__version__,
            torch_version=torch.__version__,
            weights=self.weights.name,
            weights_sha256=self.weights.sha256,
            config_sha256=self.config.sha256(),
            device=_describe(self.device),
            started_utc=started.isoformat(timespec="seconds"),
            seconds={**clock.seconds, "total": round(sum(clock.seconds.values()), 4)},
            peak_memory_mb=peak_memory_mb(),
            operating_threshold=self.config.inference.operating_threshold,
        )


def near_bone(found: Detections, bone: BoneRegion) -> Detections:
    """Drop what lies outside the region: a tile's corner far from bone holds no bone lesion."""
    return found[torch.from_numpy(bone.touches(found.boxes.numpy()))]


def _crops(
    scan: ModelView, tiles: TilePlan, batch: Sequence[Tile]
) -> Int16[np.ndarray, "tiles z y x"]:
    return np.stack([tiles.crop(scan, tile) for tile in batch])


def with_small_masks(found: Detections) -> Detections:
    """Return the detections with masks of 16 bits, exact to 0.0003.

    All tiles' masks wait for merging: of a long scan they would be a fifth of its size.
    """
    return replace(found, masks=found.masks.half())


def doubts(scan: Volume, bone: BoneRegion) -> tuple[str, ...]:
    """Return what makes findings in this scan less sure, one sentence each."""
    found: list[str] = []
    if not bone.cells.any():
        found.append(
            "no bone found in this scan, so no place was searched for lesions; expected CT in "
            "HU that shows bone"
        )
    widest, shortest = (
        max(scan.spacing_zyx_mm),
        min(n * spacing for n, spacing in zip(scan.shape, scan.spacing_zyx_mm, strict=True)),
    )
    if widest > COARSE_SLICES_MM:
        found.append(
            f"voxels are up to {widest:.1f} mm apart (expected at most {COARSE_SLICES_MM:g} mm): "
            "small lesions may be missed and measures are coarse"
        )
    if shortest < SMALL_FIELD_MM:
        found.append(
            f"the scan is only {shortest:.0f} mm wide along one axis (expected at least "
            f"{SMALL_FIELD_MM:g} mm): the network sees less around lesions than in training"
        )
    return tuple(found)


def _build_detector(weights: LoadedWeights) -> MaskRCNN:
    model = MaskRCNN(weights.config.model, weights.config.preprocess.spacing_mm)
    load_into(model, weights.model_state, weights.name)
    return model


def _build_primary(weights: LoadedWeights) -> PrimaryModel | None:
    state = weights.primary_state
    if state is None:
        return None
    model = PrimaryModel(features=state["weight"].shape[1], members=state["weight"].shape[0])
    load_into(model, state, weights.name)
    return model.eval()


def _mean_of_lesions(lesions: Detections) -> PrimaryPrediction:
    aggregation = (
        "mean of the lesions' p_lung weighted by score; these weights have no second stage"
    )
    if len(lesions) == 0:
        return PrimaryPrediction(p_lung=None, aggregation=aggregation)
    mean = (lesions.p_lung * lesions.scores).sum() / lesions.scores.sum().clamp(min=1e-6)
    return PrimaryPrediction(p_lung=float(mean.clamp(0, 1)), aggregation=aggregation)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
