"""How much faster the compiled 3D operators are than what torch and MONAI offer.

    python benchmarks/operators.py --threads 2 --output benchmarks/operators.md

MONAI's NMS is compared where MONAI is installed (``pip install osteomet[bench]``).
"""

import argparse
import os
import platform
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from timing import Timing, compare, markdown_table
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops import acceleration
from osteomet.ops.depthwise_conv import depthwise_conv3d
from osteomet.ops.nms import nms
from osteomet.ops.roi_align import roi_align

try:
    from monai.data.box_utils import non_max_suppression
except ImportError:
    non_max_suppression = None

Cases = dict[str, dict[str, Timing]]

DEPTHWISE = [(1, 80, 24), (2, 40, 24), (2, 80, 12), (2, 160, 6), (2, 320, 3), (1, 80, 32)]
"""Batch, channels and side: the stages of the smallest model, and a larger map."""

ROI_ALIGN = [(7, 128), (7, 512), (14, 128)]
"""Side of the pooled grid and number of RoIs, on 128 channels of 32-cubed."""

NMS = [100, 1000, 5000]


def forward_and_backward(
    function: Callable[..., Tensor], *tensors: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Return a run of ``function`` and of all its gradients, given that of the output."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    grad = torch.randn_like(function(*leaves))  # in the layout that the output has
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def depthwise(rounds: int) -> Cases:
    """Time forward plus backward of the 7-cubed depthwise convolution."""
    cases: Cases = {}
    for batch, channels, side in DEPTHWISE:
        plain = torch.randn(batch, channels, side, side, side)
        weight, bias = torch.randn(channels, 1, 7, 7, 7), torch.randn(channels)
        torch_conv = partial(F.conv3d, padding=3, groups=channels)
        variants: dict[str, Callable[[], object]] = {}
        for layout, x in [
            ("contiguous", plain),
            ("channels last", plain.to(memory_format=torch.channels_last_3d)),
        ]:
            for name, conv in [("torch", torch_conv), ("osteomet", depthwise_conv3d)]:
                variants[f"{name}, {layout}"] = forward_and_backward(conv, x, weight, bias)
        cases[f"{batch} x {channels} x {side}^3"] = compare(variants, rounds)
    return cases


def roi_alignment(rounds: int) -> Cases:
    """Time forward plus backward of RoIAlign, one sample a bin."""
    cases: Cases = {}
    for size, count in ROI_ALIGN:
        boxes, plain = random_boxes(count, 32, 3, 14), torch.randn(1, 128, 32, 32, 32)
        index, grid = torch.zeros(count, dtype=torch.int64), sampling_grid(boxes, size, 32)
        sample = partial(F.grid_sample, grid=grid, padding_mode="border", align_corners=False)
        ours = partial(roi_align, boxes=boxes, batch_index=index, output_size=size)
        variants: dict[str, Callable[[], object]] = {}
        for layout, features in [
            ("contiguous", plain),
            ("channels last", plain.to(memory_format=torch.channels_last_3d)),
        ]:
            for name, pool in [("grid_sample", sample), ("osteomet", ours)]:
                variants[f"{name}, {layout}"] = forward_and_backward(pool, features)
        cases[f"{count} RoIs to {size}^3"] = compare(variants, rounds)
    return cases


def suppression(rounds: int) -> Cases:
    """Time NMS at IoU 0.5 of boxes that overlap much and little."""
    cases: Cases = {}
    for count in NMS:
        for scene, spread in [("dense", 4.3), ("sparse", 15.0)]:
            boxes = random_boxes(count, spread * count ** (1 / 3), 3, 12)
            scores = torch.rand(count)
            variants: dict[str, Callable[[], object]] = {
                "osteomet, torch alone": partial(nms_through_torch, boxes, scores),
                "osteomet": partial(nms, boxes, scores, 0.5),
            }
            if non_max_suppression is not None:
                monai = partial(non_max_suppression, boxes, scores, 0.5)
                if set(monai().tolist()) != set(nms(boxes, scores, 0.5).tolist()):
                    raise RuntimeError(f"MONAI keeps other boxes of {count} {scene} ones")
                variants = {"MONAI": monai, **variants}
            cases[f"{count} {scene}"] = compare(variants, rounds)
    return cases


def nms_through_torch(boxes: Tensor, scores: Tensor) -> Tensor:
    """Run NMS as it runs where numba is missing."""
    enabled, acceleration.NUMBA_ENABLED = acceleration.NUMBA_ENABLED, False
    try:
        return nms(boxes, scores, 0.5)
    finally:
        acceleration.NUMBA_ENABLED = enabled


def random_boxes(count: int, spread: float, smallest: float, more: float) -> Tensor:
    """Return boxes around centres spread evenly, their sides evenly from ``smallest`` up."""
    center, size = torch.rand(count, 3) * spread, smallest + torch.rand(count, 3) * more
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def sampling_grid(boxes: Tensor, size: int, side: int) -> Tensor:
    """Return where grid_sample must read all boxes of one map; not counted in its time."""
    steps = (torch.arange(size) + 0.5) / size
    z, y, x = (
        2 * (boxes[:, a, None] + (boxes[:, a + 3] - boxes[:, a])[:, None] * steps) / side - 1
        for a in range(3)
    )
    full = (len(boxes), size, size, size)
    axes = [
        x[:, None, None, :].expand(full),
        y[:, None, :, None].expand(full),
        z[:, :, None, None].expand(full),
    ]
    return torch.stack(axes, dim=-1).flatten(0, 1)[None]


def report(threads: int, rounds: int) -> str:
    """Run everything and return the page."""
    lines = [
        "# Operators: compiled against torch and MONAI",
        "",
        f"Repeat with `python benchmarks/operators.py --threads {threads} --rounds {rounds}`.",
        "",
        f"{processor()}; {os.cpu_count()} cores, {threads} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, {monai_version()}. Medians of "
        f"{rounds} runs, the variants of a case in turn, after one that compiles. CPU ms adds up "
        "all threads and bears company best; load average "
        f"{', '.join(f'{load:.1f}' for load in os.getloadavg())} at the start.",
        "",
        "## Depthwise 7 x 7 x 7 convolution, forward + backward",
        "",
        *markdown_table("batch x channels x side", depthwise(rounds), "torch, contiguous"),
        "",
        "## RoIAlign, 128 channels, 32-cubed, one sample a bin, forward + backward",
        "",
        *markdown_table("RoIs", roi_alignment(rounds), "grid_sample, contiguous"),
        "",
        "## NMS, IoU 0.5",
        "",
    ]
    baseline = "osteomet, torch alone" if non_max_suppression is None else "MONAI"
    lines += markdown_table("boxes", suppression(rounds), baseline)
    return "\n".join([*lines, ""])


def processor() -> str:
    """Return the name of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((row.split(":")[1].strip() for row in lines if row.startswith("model name")), "CPU")


def monai_version() -> str:
    """Return which MONAI is compared, if any."""
    if non_max_suppression is None:
        return "MONAI not installed"
    return f"MONAI {metadata.version('monai')}"


def main() -> None:
    """Read the options, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="file to write the tables to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    page = report(options.threads, options.rounds)
    print(page)
    if options.output:
        options.output.write_text(page)


if __name__ == "__main__":
    main()
