"""Count what a training step must compute and move at least, from the shapes that pass by.

Counted are the products of convolutions and linear maps (without those with padding), what they,
the normalisations and RoIAlign must read and write, and the optimiser's numbers. A tensor counts
once where it is read and once where it is written; activations, residual sums, losses, matching
and proposals count nothing. So the limit is rather too low than too high; but a convolution counts
as the plain one, of which minimal filtering leaves a third where it is dense, and two fifths where
it is depthwise.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from machine import Machine
from step_parts import AVERAGE, POOLING, REGIONS, RPN_LAYERS, UPDATE, parts_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from osteomet.models.backbones.convnextv2 import ConvNeXtV2Block
from osteomet.models.layers import DepthwiseConv3d, PatchifyConv3d

FLOAT = 4
"""Bytes."""
UPDATE_PASSES, AVERAGE_PASSES = 10, 3
"""Reads and writes a parameter: 3 to clip its gradient, 7 of AdamW; 3 of the average."""

LEARNS_FROM_FEW = (RPN_LAYERS,)
"""Parts that have a gradient at some dozens of their cells: backward counts nothing."""


@dataclass(frozen=True)
class Item:
    """What one layer must do in one direction.

    Attributes:
        kind: of layer.
        operations: multiplications and additions.
        moved: bytes read and written.
        part: of the network, as ``step_parts`` calls it.
    """

    kind: str
    operations: float
    moved: float
    part: str = ""


class StepCount:
    """The layers of one step, and how many operators torch was asked for."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.operators = 0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """Count the step that is taken meanwhile."""
        parts = {below: name for name, module in parts_of(model) for below in module.modules()}
        handles = [
            module.register_forward_hook(partial(self._count, parts[module], count))
            for module in model.modules()
            if (count := _counter(module)) is not None
        ]
        parameters = FLOAT * sum(p.numel() for p in model.parameters())
        for part, passes in (UPDATE, UPDATE_PASSES), (AVERAGE, AVERAGE_PASSES):
            self.items.append(Item("optimiser", 0.0, passes * parameters, part))
        operators = _Operators()
        try:
            with operators:
                yield
        finally:
            self.operators = operators.count
            for handle in handles:
                handle.remove()

    def _count(
        self,
        part: str,
        count: Callable[[Any, Tensor, Any], list[Item]],
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        output: object,
    ) -> None:
        items = count(module, inputs[0], output)
        if (isinstance(output, Tensor) and not output.requires_grad) or part in LEARNS_FROM_FEW:
            items = items[::2]  # forward and backward take turns
        self.items += [replace(item, part=item.part or part) for item in items]


class _Operators(TorchDispatchMode):
    """Counts operators that are no view: on a GPU each is a kernel or more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        self.count += not func.is_view and "empty" not in str(func)
        return func(*args, **(kwargs or {}))


def _counter(module: nn.Module) -> Callable[[Any, Tensor, Any], list[Item]] | None:
    name = type(module).__name__
    if isinstance(module, ConvNeXtV2Block):
        return _bottleneck
    if isinstance(module, nn.Conv3d):
        return _convolution
    if isinstance(module, nn.Linear):
        return _linear
    if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm3d | nn.BatchNorm3d):
        return _norm
    return _pooling if name in ("BoxHead", "MaskHead") else None


def _bottleneck(block: ConvNeXtV2Block, x: Tensor, y: Tensor) -> list[Item]:
    """Count the two maps of a block, which are computed together."""
    wide = 4 * x.numel()
    weight = block.project.weight.numel()
    products = 2.0 * wide * x.shape[1]
    return [
        *_both("linear map", products, x.numel(), wide, weight),
        *_both("linear map", products, wide, y.numel(), weight),
    ]


def _linear(layer: nn.Linear, x: Tensor, y: Tensor) -> list[Item]:
    products = 2.0 * y.numel() * layer.in_features
    weight = layer.weight.numel()
    return _both("linear map", products, x.numel(), y.numel(), weight, x.requires_grad)


def _convolution(layer: nn.Conv3d, x: Tensor, y: Tensor) -> list[Item]:
    kind = "dense convolution"
    if isinstance(layer, PatchifyConv3d):
        kind = "linear map"
    elif isinstance(layer, DepthwiseConv3d):
        kind = "depthwise convolution"
    pairs = layer.in_channels * layer.out_channels / layer.groups
    taps = 1
    for axis in range(3):
        kernel, stride, padding = (
            int(given[axis]) for given in (layer.kernel_size, layer.stride, layer.padding)
        )
        taps *= taps_inside(x.shape[2 + axis], y.shape[2 + axis], kernel, stride, padding)
    weight = layer.weight.numel()
    products = 2.0 * len(x) * pairs * taps
    learned = x.shape[1] / layer.in_channels  # of a mask head the other channels are given
    down = x.requires_grad * learned
    return _both(kind, products, round(x.numel() / learned), y.numel(), weight, down)


def taps_inside(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return how many taps of a kernel fall on ``before`` cells, over ``after`` places."""
    starts = range(-padding, after * stride - padding, stride)
    return sum(min(start + kernel, before) - max(start, 0) for start in starts)


def _both(
    kind: str, operations: float, read: int, written: int, weight: int, down: float = 1.0
) -> list[Item]:
    """Return forward and backward; ``down`` is the share of the input that has a gradient."""
    back = written + read + weight + down * (read + weight)
    return [
        Item(kind, operations, FLOAT * (read + written + weight)),
        Item(kind, operations * (1 + down), FLOAT * back),
    ]


def _norm(_: nn.Module, x: Tensor, __: Tensor) -> list[Item]:
    return [
        Item("normalisation", 0.0, 2.0 * FLOAT * x.numel()),
        Item("normalisation", 0.0, 3.0 * FLOAT * x.numel()),
    ]


def _pooling(_: nn.Module, pooled: Tensor, __: object) -> list[Item]:
    return [Item("RoIAlign", 0.0, FLOAT * pooled.numel(), part) for part in (REGIONS, POOLING)]


def limits(
    items: Sequence[Item], machine: Machine, by: str
) -> dict[str, tuple[float, float, float]]:
    """Return by ``kind`` or ``part`` the Gflop, the MB and the limit in CPU ms, layer by layer."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for item in items:
        entry = sums[getattr(item, by)]
        entry[0] += item.operations / 1e9
        entry[1] += item.moved / 1e6
        entry[2] += machine.floor_ms(item.operations, item.moved)
    return {kind: (a, b, c) for kind, (a, b, c) in sums.items()}
