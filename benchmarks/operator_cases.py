"""Layers that `operators.py` times: each, what a user would take instead, and the least work.

The least work is what follows from the definition, whatever the code: products and sums, of which
a vector instruction may do many at once, and bytes of what goes in and comes out, each once.
Intermediate results count nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from step_limit import taps_inside
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops.binary_losses import entropy_and_overlap
from osteomet.ops.dense_conv import dense_conv3d
from osteomet.ops.depthwise_conv import depthwise_conv3d
from osteomet.ops.inverted_bottleneck import inverted_bottleneck
from osteomet.ops.layer_norm import layer_norm
from osteomet.ops.roi_align import roi_align, roi_align_levels
from osteomet.ops.row_products import linear
from osteomet.ops.space_to_depth import depth_to_space, space_to_depth

Run = Callable[[], object]
OURS = "osteomet"
FLOAT = 4
"""Bytes."""
LAST = torch.channels_last_3d


@dataclass(frozen=True)
class Work:
    """What must be done at least.

    Attributes:
        operations: multiplications, additions and comparisons.
        moved: bytes read and written.
    """

    operations: float
    moved: float


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        name: what the row is called.
        work: of the forward pass, or of an operator without a backward pass.
        variants: runs by name; the first is the alternative, ``OURS`` the operator.
        work_back: of the backward pass.
        backward: runs of that, given the output, under the same names.
    """

    name: str
    work: Work
    variants: dict[str, Run]
    work_back: Work = Work(0.0, 0.0)
    backward: dict[str, Run] = field(default_factory=dict)


Function = Callable[..., Tensor]


def differentiable(
    name: str, work: Work, work_back: Work, variants: dict[str, tuple[Function, list[Tensor]]]
) -> Case:
    """Return a case of functions and of their gradients by all tensors given."""
    forward: dict[str, Run] = {}
    backward: dict[str, Run] = {}
    for key, (function, tensors) in variants.items():
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        out = function(*leaves)
        grad = torch.randn_like(out)  # in the layout that the output has
        forward[key] = partial(function, *leaves)
        backward[key] = partial(torch.autograd.grad, out, leaves, grad, retain_graph=True)
    return Case(name, work, forward, work_back, backward)


DEPTHWISE = ((4, 48, 16), (4, 96, 8), (4, 192, 4), (4, 48, 8), (1, 48, 32))
"""Batch, channels and side: a training step's stages and pyramid, and a tile of prediction."""


def depthwise() -> Iterator[Case]:
    """Convolve with a 7-cubed kernel a channel.

    A product and a sum for each tap that falls inside the map; backward once for the input and
    once for the weights.
    """
    for batch, channels, side in DEPTHWISE:
        x = torch.randn(batch, channels, side, side, side)
        leaves = [x, torch.randn(channels, 1, 7, 7, 7), torch.randn(channels)]
        last = [x.to(memory_format=LAST), *leaves[1:]]
        products = 2.0 * batch * channels * taps_inside(side, side, 7, 1, 3) ** 3
        weights = leaves[1].numel()
        conv = partial(F.conv3d, padding=3, groups=channels)
        yield differentiable(
            f"{batch} x {channels} x {side}^3",
            Work(products, FLOAT * (2 * x.numel() + weights)),
            Work(2 * products, FLOAT * (3 * x.numel() + 2 * weights)),
            {
                "torch": (conv, leaves),
                "torch, channels last": (conv, last),
                OURS: (depthwise_conv3d, last),
            },
        )


BOTTLENECKS = ((4, 4096, 48), (2, 4096, 48), (4, 512, 96), (4, 64, 192))
"""Images, voxels of each, and channels of a block, which has four times as many within."""


def bottlenecks() -> Iterator[Case]:
    """Map to four times the channels, GELU, normalise by global response, and map back.

    Two products, and a square and a sum for the norm of each wide channel; backward four products,
    and the norm's gradient. GELU itself counts nothing, and what is wide need not be moved.
    """
    for batch, voxels, channels in BOTTLENECKS:
        wide, rows = 4 * channels, batch * voxels
        leaves = [torch.randn(batch, voxels, channels)]
        leaves += [torch.randn(wide, channels) / channels**0.5, torch.randn(wide)]
        leaves += [torch.randn(wide), torch.randn(wide)]
        leaves += [torch.randn(channels, wide) / wide**0.5, torch.randn(channels)]
        operations = 4.0 * rows * channels * wide + 2 * rows * wide
        weights = 2 * channels * wide
        yield differentiable(
            f"{batch} x {voxels} x {channels}",
            Work(operations, FLOAT * (2 * rows * channels + weights)),
            Work(2 * operations, FLOAT * (3 * rows * channels + 2 * weights)),
            {"torch": (_bottleneck_by_torch, leaves), OURS: (_bottleneck, leaves)},
        )


def _bottleneck(x: Tensor, *given: Tensor) -> Tensor:
    weight, bias, gamma, beta, back, back_bias = given
    return inverted_bottleneck(x, (weight, bias), gamma, beta, (back, back_bias))


def _bottleneck_by_torch(x: Tensor, *given: Tensor) -> Tensor:
    """The layers, with GRN as its paper's code has it."""
    weight, bias, gamma, beta, back, back_bias = given
    x = F.gelu(F.linear(x, weight, bias))
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    share = norms / (norms.mean(dim=-1, keepdim=True) + 1e-6)
    return F.linear(gamma * (x * share) + beta + x, back, back_bias)


CUBES = ((4, 1, 64, 4), (4, 48, 16, 2), (128, 2, 14, 2), (128, 48, 7, 7))
"""Batch, channels, side and factor: stem, downsampling, a box's detail, a box's features."""


LINEAR = ((16384, 48, 192), (16384, 192, 48), (16384, 48, 48), (43904, 24, 48), (2048, 96, 384))
"""Voxels, inputs and outputs: of a block's maps, a pyramid's, the box head's; and a wide one."""


def linear_maps() -> Iterator[Case]:
    """Map the channels of each voxel; backward two products."""
    for voxels, inputs, outputs in LINEAR:
        leaves = [torch.randn(voxels, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
        products = 2.0 * voxels * inputs * outputs
        sizes = voxels * (inputs + outputs)
        weights = inputs * outputs
        yield differentiable(
            f"{voxels} x {inputs} to {outputs}",
            Work(products, FLOAT * (sizes + weights)),
            Work(2 * products, FLOAT * (sizes + voxels * inputs + 2 * weights)),
            {"torch": (F.linear, leaves), OURS: (linear, leaves)},
        )


NORMS = ((16384, 48), (43904, 24), (2048, 96))
"""Voxels and channels."""


def layer_norms() -> Iterator[Case]:
    """Normalise the channels of each voxel: read once and written once."""
    for voxels, channels in NORMS:
        leaves = [torch.randn(voxels, channels), torch.randn(channels), torch.randn(channels)]
        size = FLOAT * voxels * channels
        yield differentiable(
            f"{voxels} x {channels}",
            Work(0.0, 2 * size),
            Work(0.0, 3 * size),
            {
                "torch": (lambda x, w, b: F.layer_norm(x, w.shape, w, b, 1e-6), leaves),
                OURS: (partial(layer_norm, eps=1e-6), leaves),
            },
        )


DENSE = ((16, 40, 24, 12), (16, 24, 24, 12))
"""Regions, inputs, outputs and side of a mask head's convolutions."""


def dense() -> Iterator[Case]:
    """Convolve with 3-cubed kernels, every input with every output."""
    for regions, inputs, outputs, side in DENSE:
        x = torch.randn(regions, inputs, side, side, side).to(memory_format=LAST)
        leaves = [x, torch.randn(outputs, inputs, 3, 3, 3), torch.randn(outputs)]
        taps = taps_inside(side, side, 3, 1, 1) ** 3
        products = 2.0 * regions * inputs * outputs * taps
        voxels = regions * side**3
        weights = leaves[1].numel()
        yield differentiable(
            f"{regions} x {inputs} to {outputs} x {side}^3",
            Work(products, FLOAT * (voxels * (inputs + outputs) + weights)),
            Work(2 * products, FLOAT * (voxels * (2 * inputs + outputs) + 2 * weights)),
            {"torch": (partial(F.conv3d, padding=1), leaves), OURS: (dense_conv3d, leaves)},
        )


VOXELS = ((4, 64**3), (28, 24**3))
"""Images and voxels of a dense segmentation; masks and voxels of a mask head."""


def binary_losses() -> Iterator[Case]:
    """Sum cross-entropy and overlap: logits and truth are read, a gradient is written."""
    for rows, voxels in VOXELS:
        truth = (torch.rand(rows, voxels) < 0.01).float()
        size = FLOAT * rows * voxels
        yield differentiable(
            f"{rows} x {voxels}",
            Work(0.0, 2 * size),
            Work(0.0, 3 * size),
            {
                "torch": (partial(_losses_by_torch, truth), [torch.randn(rows, voxels)]),
                OURS: (partial(entropy_and_overlap, truth=truth), [torch.randn(rows, voxels)]),
            },
        )


def _losses_by_torch(truth: Tensor, logits: Tensor) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    p = logits.sigmoid()
    sums = (entropy * truth).sum(1), entropy.sum(1), (p * truth).sum(1), p.sum(1)
    return torch.stack(sums, dim=1)


def cubes() -> Iterator[Case]:
    """Move cubes into channels and back, each of which is the other's backward pass.

    Each number is read and written once; what comes out holds channels last, as what follows reads.
    """
    for batch, channels, side, factor in CUBES:
        x = torch.randn(batch, channels, side, side, side).to(memory_format=LAST)
        y = space_to_depth(x, factor)
        work = Work(0.0, 2.0 * FLOAT * x.numel())
        size = f"{batch} x {channels} x {side}^3 by {factor}"
        there: dict[str, Run] = {"torch": partial(_cubes_by_torch, x, factor)}
        back: dict[str, Run] = {"torch": partial(_spread_by_torch, y, factor)}
        there[OURS] = partial(space_to_depth, x, factor)
        back[OURS] = partial(depth_to_space, y, factor)
        yield Case(f"into channels, {size}", work, there)
        if channels != 2:  # the crops of image and segmentation carry no gradient
            yield Case(f"out of channels, {size}", work, back)


def _cubes_by_torch(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    x = x.reshape(b, c, z // factor, factor, y // factor, factor, w // factor, factor)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).movedim(-1, 1)


def _spread_by_torch(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    x = x.reshape(b, c // factor**3, factor, factor, factor, z, y, w)
    spread = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, z * factor, y * factor, w * factor)
    return spread.contiguous(memory_format=LAST)


ROI_ALIGN = ((4, 48, 16, 128, 7), (4, 48, 16, 16, 12), (4, 2, 64, 128, 14), (1, 128, 32, 512, 7))
"""Batch, channels and side of the map, RoIs, and side of what is pooled: a step's box and mask
head and the box head's detail, and a larger one."""


def roi_alignment() -> Iterator[Case]:
    """Pool boxes, one sample a bin, by grid_sample with its grid made before.

    Each pooled number is written and is the last of three interpolations, a product and a sum
    of two each; the map is read. Backward the pooled gradient is read and that of the map written.
    """
    for batch, channels, side, count, size in ROI_ALIGN:
        features = torch.randn(batch, channels, side, side, side).to(memory_format=LAST)
        regions = random_boxes(count, side, 3, side / 2)
        image = torch.arange(batch).repeat_interleave(count // batch)
        grid = sampling_grid(regions, size, side).unflatten(0, (batch, -1)).flatten(1, 2)
        numbers = count * channels * size**3
        work = Work(3.0 * numbers, FLOAT * (numbers + features.numel()))
        sample = partial(F.grid_sample, grid=grid, padding_mode="border", align_corners=False)
        ours = partial(roi_align, boxes=regions, batch_index=image, output_size=size)
        yield differentiable(
            f"{count} of {batch} x {channels} x {side}^3 to {size}^3",
            work,
            work,
            {"grid_sample": (sample, [features]), OURS: (ours, [features])},
        )
    yield _pyramid()


def _pyramid() -> Case:
    """Pool from three levels; by torch level by level, then into the order of the boxes."""
    levels = [torch.randn(4, 48, side, side, side).to(memory_format=LAST) for side in (16, 8, 4)]
    regions = random_boxes(128, 64, 4, 40)
    image, level = torch.arange(4).repeat_interleave(32), torch.arange(128) % 3
    chosen = [[((level == n) & (image == b)).nonzero()[:, 0] for b in range(4)] for n in range(3)]
    order = torch.cat([rows for of_level in chosen for rows in of_level]).argsort()
    grids = [
        [sampling_grid(regions[rows], 7, 64).flatten(0, 1)[None] for rows in of_level]
        for of_level in chosen
    ]

    def by_torch(*maps: Tensor) -> Tensor:
        parts = [
            F.grid_sample(one[b : b + 1], grid, padding_mode="border", align_corners=False)
            for one, of_level in zip(maps, grids, strict=True)
            for b, grid in enumerate(of_level)
        ]
        return torch.cat([part[0].unflatten(1, (-1, 7)).transpose(0, 1) for part in parts])[order]

    def ours(*maps: Tensor) -> Tensor:
        return roi_align_levels(list(maps), [4, 8, 16], regions, image, level, 7)

    numbers = 128 * 48 * 7**3
    work = Work(3.0 * numbers, FLOAT * (numbers + sum(one.numel() for one in levels)))
    variants = {"grid_sample": (by_torch, levels), OURS: (ours, levels)}
    return differentiable("128 of three levels to 7^3", work, work, variants)


def random_boxes(count: int, spread: float, smallest: float, more: float) -> Tensor:
    """Return boxes around centres spread evenly, their sides evenly from ``smallest`` up."""
    center, size = torch.rand(count, 3) * spread, smallest + torch.rand(count, 3) * more
    return torch.cat([center - size / 2, center + size / 2], dim=1)


def sampling_grid(regions: Tensor, size: int, side: int) -> Tensor:
    """Return ``(n, size, size, size, 3)``: where grid_sample must read; not counted in its time."""
    steps = (torch.arange(size) + 0.5) / size
    z, y, x = (
        2 * (regions[:, a, None] + (regions[:, a + 3] - regions[:, a])[:, None] * steps) / side - 1
        for a in range(3)
    )
    full = (len(regions), size, size, size)
    axes = [
        x[:, None, None, :].expand(full),
        y[:, None, :, None].expand(full),
        z[:, :, None, None].expand(full),
    ]
    return torch.stack(axes, dim=-1)
