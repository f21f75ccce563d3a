"""One case of `growth.py`, in a process of its own, with what it cost as JSON in the last line.

`trunk` writes a piece of a simulated trunk as DICOM, `predict` predicts a DICOM folder, and
`lesions` predicts a scan in which a known number of lesions is to be found.
"""

import argparse
import ctypes
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from scipy import ndimage
from torch import Tensor, nn

from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.inference.resources import StageClock
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.scan_record import Scan, describe
from osteomet.io.volumes import read_volume
from osteomet.ops.boxes import scale_boxes
from osteomet.ops.masks import crop_instances
from osteomet.structures import Detections, Targets
from osteomet.volume import ShapeZYX, Volume

DENSE_HU = 200
"""Voxels above it are counted as bone."""

CASE_SPACING_MM = (1.0, 0.8, 0.8)
"""Voxels of the scan with planted lesions."""

CASE_SIDE_VOX = 512
TISSUE_HU, ROD_HU, LESION_HU = 40, 400, 1300
FOUND_ABOVE_HU = 900
ROD_MM = 70.0
"""Width and depth of the rod of bone that holds the lesions."""

LESION_RADIUS_MM, LESION_DISTANCE_MM = 3.0, 10.0
MASK_CELLS, MASK_MARGIN = 24, 1.2
EMBEDDING = 32
"""As the bundled second stage expects."""


class Clock(StageClock):
    """Notes what stages cost, on a CPU, with their memory where the system tells it."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), watch_memory=sys.platform.startswith("linux"))

    def costs(self) -> dict[str, dict[str, float]]:
        """Return CPU seconds, seconds and peak MB of each stage."""
        return {
            name: {
                "cpu": self.cpu_seconds[name],
                "wall": seconds,
                "peak_mb": self.peak_mb.get(name, 0.0),
            }
            for name, seconds in self.seconds.items()
        }


def piece_of_trunk(
    trunk: Int16[np.ndarray, "z y x"], shape: ShapeZYX
) -> Int16[np.ndarray, "z y x"]:
    """Return a piece about the middle of the bone; along z the trunk begins again at its end."""
    bone = np.argwhere(trunk[::8, ::8, ::8] > DENSE_HU) * 8
    middle = bone.mean(axis=0).round().astype(int)
    first = [
        int(min(max(center - n // 2, 0), max(0, length - n)))
        for center, n, length in zip(middle, shape, trunk.shape, strict=True)
    ]
    slices = (first[0] + np.arange(shape[0])) % len(trunk)
    rows, columns = (slice(f, f + n) for f, n in zip(first[1:], shape[1:], strict=True))
    return trunk[:, rows, columns][slices]


def write_trunk(source: Path, shape: ShapeZYX, series: Path) -> dict[str, object]:
    """Write a piece of a trunk as DICOM; return its size in memory and its bone."""
    trunk = read_volume(source).volume
    voxels = piece_of_trunk(trunk.voxels, shape)
    write_ct_series(Volume(voxels, trunk.affine), series, patient_id="growth")
    return {
        "mb": voxels.nbytes / 1e6,
        "bone": sum(int((z > DENSE_HU).sum()) for z in voxels),
        "spacing_mm": trunk.spacing_zyx_mm,
    }


def predict_series(series: Path) -> dict[str, object]:
    """Predict a DICOM folder with the bundled weights; count what the network saw."""
    clock, seen = Clock(), []
    with clock.stage("load weights"):
        predictor = Predictor(device="cpu")
    predictor.detector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    prediction = predictor.predict(series, clock=clock)
    with clock.stage("write"), tempfile.TemporaryDirectory() as out:
        write_results(prediction, Path(out))
    return {
        "costs": clock.costs(),
        "tiles": sum(shape[0] for shape in seen),
        "tile_voxels": sum(shape.numel() for shape in seen),
        "lesions": len(prediction.findings.lesions),
    }


class PlantedLesions(nn.Module):
    """A stand-in for the network that finds each bright ball exactly.

    Args:
        above: normalised intensity of a lesion's voxels.
    """

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def forward(
        self, images: Float[Tensor, "batch 1 z y x"], targets: list[Targets] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Return what is found in each image, and no losses."""
        return [self._find(image[0] > self.above) for image in images], {}

    def _find(self, bright: Bool[Tensor, "z y x"]) -> Detections:
        parts, count = ndimage.label(bright.numpy())
        boxes = torch.tensor(
            [
                [*(side.start for side in region), *(side.stop for side in region)]
                for region in ndimage.find_objects(parts)
            ],
            dtype=torch.float32,
        ).reshape(-1, 6)
        mask_boxes = scale_boxes(boxes, MASK_MARGIN)
        names = torch.arange(1, count + 1)
        return Detections(
            boxes,
            scores=torch.full((count,), 0.99),
            p_lung=torch.full((count,), 0.5),
            embeddings=torch.zeros(count, EMBEDDING),
            attributes=torch.full((count, 4), 0.5),
            mask_boxes=mask_boxes,
            masks=crop_instances(torch.from_numpy(parts).long(), names, mask_boxes, MASK_CELLS),
        )


def scan_with_lesions(slices: int, lesions: int) -> Scan:
    """Return a rod of bone in soft tissue, with small balls spread evenly over the rod."""
    shape = (slices, CASE_SIDE_VOX, CASE_SIDE_VOX)
    volume = Volume.from_spacing(np.full(shape, TISSUE_HU, np.int16), CASE_SPACING_MM)
    spacing = np.array(CASE_SPACING_MM)
    size_mm = np.array(shape) * spacing
    low_mm = np.array([0, *((size_mm[1:] - ROD_MM) / 2)])
    high_mm = np.array([size_mm[0], *((size_mm[1:] + ROD_MM) / 2)])
    rod = tuple(
        slice(int(a), int(b)) for a, b in zip(low_mm / spacing, high_mm / spacing, strict=True)
    )
    volume.voxels[rod] = ROD_HU
    axes = [
        np.arange(low + LESION_DISTANCE_MM / 2, high - LESION_RADIUS_MM, LESION_DISTANCE_MM)
        for low, high in zip(low_mm, high_mm, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    if lesions > len(places):
        raise SystemExit(f"{lesions} lesions; a scan of {slices} slices has room for {len(places)}")
    for place in places[np.arange(lesions) * len(places) // max(lesions, 1)]:
        first = np.floor((place - LESION_RADIUS_MM) / spacing).astype(int)
        window = tuple(
            slice(a, a + int(np.ceil(2 * LESION_RADIUS_MM / s)) + 1)
            for a, s in zip(first.tolist(), spacing, strict=True)
        )
        z, y, x = (
            ((np.arange(w.start, w.stop) + 0.5) * s - p) ** 2
            for w, s, p in zip(window, spacing, place, strict=True)
        )
        inside = z[:, None, None] + y[:, None] + x <= LESION_RADIUS_MM**2
        volume.voxels[window][inside] = LESION_HU
    return Scan(volume, describe(volume, source="planted", file_format="nifti"))


def give_back(done: int, tiles: int) -> None:
    """Return freed memory to the system after the last tile.

    The stand-in's leftovers lie scattered, and later stages would fill them unseen.
    """
    if done == tiles and sys.platform.startswith("linux"):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def predict_lesions(slices: int, lesions: int) -> dict[str, object]:
    """Predict a scan with planted lesions; refuse to count the cost of any other number."""
    weights, clock = load_weights(DEFAULT_WEIGHTS), Clock()
    config = weights.config.updated({"inference.max_candidates": 1000})
    preprocess = config.preprocess
    above = (FOUND_ABOVE_HU - preprocess.mean_hu) / preprocess.std_hu
    predictor = Predictor(
        replace(weights, config=config), device="cpu", detector=PlantedLesions(above)
    )
    with clock.stage("make"):
        scan = scan_with_lesions(slices, lesions)
    prediction = predictor.predict(scan, "planted", progress=give_back, clock=clock)
    with clock.stage("write"), tempfile.TemporaryDirectory() as out:
        write_results(prediction, Path(out))
    found = len(prediction.findings.lesions)
    if found != lesions:
        raise SystemExit(f"{found} lesions found; expected the {lesions} that were planted")
    return {"costs": clock.costs(), "mb": scan.volume.voxels.nbytes / 1e6}


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = parser.add_subparsers(dest="case", required=True)
    trunk = cases.add_parser("trunk")
    trunk.add_argument("source", type=Path)
    trunk.add_argument("series", type=Path)
    trunk.add_argument("shape", type=int, nargs=3)
    cases.add_parser("predict").add_argument("series", type=Path)
    lesions = cases.add_parser("lesions")
    lesions.add_argument("slices", type=int)
    lesions.add_argument("count", type=int)
    options = parser.parse_args()
    if options.case == "trunk":
        result = write_trunk(options.source, tuple(options.shape), options.series)
    elif options.case == "predict":
        result = predict_series(options.series)
    else:
        result = predict_lesions(options.slices, options.count)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
