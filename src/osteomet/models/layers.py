"""The few layers that backbone, neck and heads share.

All tensors are ``(batch, channels, z, y, x)`` in ``channels_last_3d`` memory, so that
moving the channels last is a view, a 1x1x1 convolution is a matrix product, and the
convolutions run on the layout they are fastest on.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from osteomet.config import Normalisation
from osteomet.ops.dense_conv import dense_conv3d
from osteomet.ops.depthwise_conv import depthwise_conv3d
from osteomet.ops.gelu import gelu
from osteomet.ops.layer_norm import layer_norm
from osteomet.ops.row_products import linear
from osteomet.ops.space_to_depth import space_to_depth

Features = Float[Tensor, "batch channels z y x"]
Visible = Bool[Tensor, "batch 1 z y x"]
"""Which cells a masked autoencoder may see."""

FOCUS_CELLS = 1.2
"""Spread of a depthwise kernel's first weights about its centre."""

MOST_GROUPS, FEWEST_IN_A_GROUP = 32, 2
"""Of group normalisation: the paper's 32 groups, or fewer where a layer is narrow."""


class LayerNorm(nn.LayerNorm):
    """Normalise the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "*places channels"]) -> Float[Tensor, "*places channels"]:
        return layer_norm(x, self.weight, self.bias, self.eps)


class LayerNorm3d(LayerNorm):
    """Normalise the channels of each voxel."""

    def forward(self, x: Features) -> Features:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def normalisation3d(kind: Normalisation, channels: int) -> nn.Module:
    """Return the norm behind a convolution that has no bias.

    ``batch`` takes its statistics over batch and voxels, ``instance`` over the voxels of each
    channel, ``group`` over those of a group of channels (Wu and He, arXiv:1803.08494). Where no
    batch size has decided about ``auto``, it is ``group``.
    """
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    possible = range(1, min(MOST_GROUPS, max(1, channels // FEWEST_IN_A_GROUP)) + 1)
    return nn.GroupNorm(max(n for n in possible if channels % n == 0), channels)


class GELU3d(nn.Module):
    """GELU of features."""

    def forward(self, x: Features) -> Features:
        return gelu(x.movedim(1, -1)).movedim(-1, 1)


class Linear(nn.Linear):
    """A linear map of the last axis; by ``ops.row_products`` where there are many rows."""

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        return linear(x, self.weight, self.bias)


class PointwiseConv3d(Linear):
    """A 1x1x1 convolution, as the matrix product it is."""

    def forward(self, x: Features) -> Float[Tensor, "batch out z y x"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class DepthwiseConv3d(nn.Conv3d):
    """One odd cubic kernel per channel, same size out; gradients by ``ops.depthwise_conv``."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    @torch.no_grad()
    def focus(self) -> None:
        """Let the weights fall off from the centre, at the variance they had.

        Of 343 equal random weights the cell itself would get one part: every feature would
        start as an average of noise over the neighbourhood, and place would have to be learned.
        """
        side = self.kernel_size[0]
        offset = torch.arange(side) - side // 2
        window = (-offset.square() / (2 * FOCUS_CELLS**2)).exp()
        window = window[:, None, None] * window[:, None] * window
        self.weight.mul_(window * (side**3 / window.square().sum()).sqrt())

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Pass each cell on, and a little of its neighbours."""
        self.weight.mul_(0.3)
        middle = self.kernel_size[0] // 2
        self.weight[:, 0, middle, middle, middle] = 1.0

    def forward(self, x: Features) -> Features:
        if self.bias is None:
            raise ValueError("a depthwise convolution of osteomet has a bias")
        return depthwise_conv3d(x, self.weight, self.bias)


class DenseConv3d(nn.Conv3d):
    """A 3x3x3 convolution, same size out; gradients by ``ops.dense_conv``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(
        self, x: Features, beside: Float[Tensor, "batch more z y x"] | None = None
    ) -> Float[Tensor, "batch out z y x"]:
        """Convolve ``x`` and, after it, more channels that need no gradient."""
        if self.bias is None:
            raise ValueError("a dense convolution of osteomet has a bias")
        return dense_conv3d(x, self.weight, self.bias, beside)


class PatchifyConv3d(nn.Conv3d):
    """A convolution whose stride is its kernel: cut into cubes, then one matrix product.

    Sides must be multiples of the kernel. With one input channel this is several times
    faster than the general convolution, forward and backward.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride, stride=stride)

    def forward(self, x: Features) -> Float[Tensor, "batch out z_cells y_cells x_cells"]:
        cubes = space_to_depth(x, self.kernel_size[0]).movedim(1, -1)
        return linear(cubes, self.weight.flatten(1), self.bias).movedim(-1, 1)


class SeparableConv3d(nn.Module):
    """Depthwise 7x7x7, LayerNorm, pointwise: wider reach than a dense 3x3x3 at a third of it."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv3d(channels, kernel_size)
        self.norm = LayerNorm3d(channels)
        self.pointwise = PointwiseConv3d(channels, out_channels)

    def forward(self, x: Features) -> Float[Tensor, "batch out z y x"]:
        return self.combine(self.depthwise(x))

    def combine(self, mixed: Features) -> Float[Tensor, "batch out z y x"]:
        """Do what follows the depthwise convolution, cell by cell."""
        out: Tensor = self.pointwise(self.norm(mixed))
        return out


def initialise(module: nn.Module) -> None:
    """Fan-in initialisation of every convolution and linear layer below ``module``.

    The default of torch scales biases by the fan-in too and shrinks the signal by about
    a half per layer; here variance is kept, so that deep heads start alive.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if isinstance(layer, DepthwiseConv3d):
            layer.focus()
        if isinstance(layer, SeparableConv3d):
            layer.depthwise.start_as_identity()


def keep_visible(x: Features, visible: Visible | None) -> Features:
    """Set the cells that are not visible to 0; None keeps all."""
    return x if visible is None else x * visible


def drop_path(branch: Features, probability: float, training: bool) -> Features:
    """Drop a residual branch for a random part of the batch (stochastic depth)."""
    if not training or probability == 0.0:
        return branch
    keep = 1.0 - probability
    mask = torch.empty(len(branch), 1, 1, 1, 1, device=branch.device).bernoulli_(keep)
    return branch * (mask / keep).to(branch.dtype)
