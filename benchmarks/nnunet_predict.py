"""Time the sliding window of nnU-Net v2 on a CPU: `python benchmarks/nnunet_predict.py --json OUT`.

Runs in an environment of its own that has `nnunetv2`. The network is the one that nnU-Net plans for
a CT of about 1 mm (``PlainConvUNet``, six stages, patches of 128 voxels a side), with random
weights: they do not change what it costs. A few tiles are timed and the sum is scaled to all tiles
of the scan at nnU-Net's step of half a patch, without mirroring. Reading, resampling and writing
are left out, all in nnU-Net's favour.
"""

import argparse
import importlib.metadata
import json
import time
from pathlib import Path
from statistics import median

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from torch import nn

PATCH = (128, 128, 128)
STEP = 0.5
CLASSES = 3
"""Background and the two primaries."""


def default_network() -> nn.Module:
    """Return what nnU-Net's planner makes for this patch: 32 channels, doubled up to 320."""
    return PlainConvUNet(
        input_channels=1,
        n_stages=6,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=CLASSES,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    ).eval()


def tile_seconds(tiles: int) -> list[tuple[float, float]]:
    """Return CPU and wall seconds of each tile, its weighted logits added up as nnU-Net does."""
    network = default_network()
    gaussian = compute_gaussian(
        PATCH, sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu")
    )
    logits = torch.zeros((CLASSES, *PATCH), dtype=torch.half)
    counts = torch.zeros(PATCH, dtype=torch.half)
    seconds = []
    with torch.inference_mode():
        for _ in range(tiles):
            image = torch.randn(1, 1, *PATCH)
            cpu, wall = time.process_time(), time.perf_counter()
            logits += network(image)[0].to(logits.dtype) * gaussian
            counts += gaussian
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


def main() -> None:
    """Time some tiles and write what all of them would take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(700, 410, 410), help="voxels z y x")
    parser.add_argument("--tiles", type=int, default=3, help="how many to time")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    steps = compute_steps_for_sliding_window(tuple(options.shape), PATCH, STEP)
    count = len(steps[0]) * len(steps[1]) * len(steps[2])
    cpu, wall = (median(values) for values in zip(*tile_seconds(options.tiles), strict=True))
    result = {
        "shape_zyx": list(options.shape),
        "tiles": count,
        "timed": options.tiles,
        "cpu_s_per_tile": cpu,
        "wall_s_per_tile": wall,
        "cpu_s": cpu * count,
        "wall_s": wall * count,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "nnunetv2": importlib.metadata.version("nnunetv2"),
    }
    options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
