"""A dense 3 x 3 x 3 convolution with a third of the products: Winograd's minimal filtering.

Two voxels along an axis need six products with three taps. Four products do if voxels are first
added up in four ways and the products in two; along three axes 64 are left of 216. The sums are
exact but for rounding, which is no worse than that of the plain convolution. A slab of cubes of 2
voxels a side is taken at a time, so that what it is turned into stays in the nearer caches.

Sources: Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms
for Convolutional Neural Networks", arXiv:1509.09308.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops.acceleration import channels_last_array, compile_kernel, run_ranges
from osteomet.ops.lane_transforms import cube_transform
from osteomet.ops.lanes import WIDTH, add, load, multiply, number, store, zeros

Features = Float[Tensor, "batch channels z y x"]
Output = Float[Tensor, "batch out z y x"]
Weight = Float[Tensor, "out channels 3 3 3"]

MADE = 2
"""Voxels a side of a cube that is made at once."""
PLACES = (MADE + 2) ** 3
"""Voxels of what it depends on, and products that it takes."""
FLOAT = 4
"""Bytes."""
MOST = 3
"""Registers of outputs at once: with four cubes they are 12 sums."""
ROWS = 4
CONVOLVED_BYTES, CORRELATED_BYTES = 2**18, 2**20
"""Of what a group of cubes is turned into, and of its products: where sums of weights are read and
written for each group, more of them pay."""

_FILTER = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
"""What the four products along an axis take of its three taps."""
_FILTERS = torch.kron(torch.kron(_FILTER, _FILTER), _FILTER)
turn_input = cube_transform(((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)))
turn_output = cube_transform(((1, 1, 1, 0), (0, 1, -1, -1)))
turn_gradient = cube_transform(((1, 0), (1, 1), (1, -1), (0, -1)))
ONE = (0,)


def convolve(x: Features, weight: Weight, bias: Float[Tensor, " out"] | None = None) -> Output:
    """Return ``F.conv3d(x, weight, bias, padding=1)`` of float32, without a gradient."""
    image, outputs = _whole(x), len(weight)
    inputs, lanes = image.shape[4], outputs + _missing(outputs)
    registers, group = _registers(lanes), _group(image.shape, lanes, CONVOLVED_BYTES)
    taps = F.pad(weight.detach(), (0, 0, 0, 0, 0, 0, 0, inputs - x.shape[1], 0, lanes - outputs))
    turned = _FILTERS @ taps.permute(2, 3, 4, 1, 0).reshape(27, -1)
    blocks = turned.view(PLACES, inputs, -1, len(registers) * WIDTH).transpose(1, 2)
    offset = torch.zeros(outputs) if bias is None else bias.detach()
    y = torch.empty(*image.shape[:4], lanes)
    arrays = blocks.reshape(PLACES, -1), F.pad(offset, (0, lanes - outputs)), y
    tasks = len(image) * _cubes(image.shape[1])
    run_ranges(_convolve, tasks, registers, group, image, *(array.numpy() for array in arrays))
    return y[..., :outputs].movedim(-1, 1)


def weight_gradient(x: Features, grad: Output) -> Weight:
    """Return the gradient of the weights, given that of the output.

    The same for any number of threads. Sums over an image are float32, sums of those float64.
    """
    image, given = _whole(x), _whole(grad)
    inputs, outputs = image.shape[4], given.shape[4]
    sums = torch.zeros(len(x), PLACES, inputs, outputs)
    group = _group(image.shape, outputs, CORRELATED_BYTES)
    run_ranges(_correlate, len(x), _registers(outputs), group, image, given, sums.numpy())
    total = sums.sum(dim=0, dtype=torch.float64).float()
    taps = (_FILTERS.T @ total.view(PLACES, -1)).view(3, 3, 3, inputs, outputs)
    return taps[..., : x.shape[1], : grad.shape[1]].permute(4, 3, 0, 1, 2).contiguous()


def _whole(x: Features) -> Float32[np.ndarray, "batch z y x lanes"]:
    """Return features as whole registers of channels, the last filled up with zeros."""
    missing = _missing(x.shape[1])
    return channels_last_array(F.pad(x.detach(), (0, 0, 0, 0, 0, 0, 0, missing)) if missing else x)


def _missing(channels: int) -> int:
    return -channels % WIDTH


def _registers(outputs: int) -> tuple[int, ...]:
    """Return an item for each register of outputs that is summed at once."""
    return tuple(range(next(n for n in range(MOST, 0, -1) if outputs // WIDTH % n == 0)))


def _group(shape: tuple[int, ...], outputs: int, most: int) -> int:
    """Return how many cubes to take at once: whole rows of them, in so many bytes if possible."""
    _, _, height, width, channels = shape
    row = FLOAT * PLACES * _cubes(width) * (channels + outputs)
    return _cubes(width) * min(_cubes(height), max(1, most // row))


def _cubes(side: int) -> int:
    return -(-side // MADE)


@compile_kernel
def _convolve(
    first: int,
    last: int,
    registers: tuple[int, ...],
    group: int,
    image: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill pairs of planes of ``out``, of which each is a task.

    Args:
        first: task.
        last: task, exclusive.
        registers: of outputs at once.
        group: cubes at once.
        image: ``(batch, z, y, x, channels)``.
        weights: ``(places, blocks of outputs * channels * outputs of a block)``.
        bias: one number an output.
        out: ``(batch, z, y, x, outputs)``.
    """
    depth, height, width, channels = image.shape[1:]
    outputs = out.shape[4]
    layers, high, wide = -(-depth // 2), -(-height // 2), -(-width // 2)
    size = (2 * high + 2, 2 * wide + 2, channels)
    results = out.reshape(-1)
    slab = np.zeros(4 * size[0] * size[1] * channels, np.float32)
    turned = np.empty(PLACES * group * channels, np.float32)
    products = np.empty(PLACES * group * outputs, np.float32)
    cube = np.empty(8 * outputs, np.float32)
    for task in range(first, last):
        b, z = task // layers, task % layers * 2
        _fill_slab(image[b], z, slab)
        for begin in range(0, high * wide, group):
            end = min(begin + group, high * wide)
            count = end - begin
            _turn_cubes(slab, size, begin, end, turned)
            for place in range(PLACES):
                at, to = place * count * channels, place * count * outputs
                _multiply(registers, turned, at, channels, weights[place], products, to, count)
            leaps = (16 * count * outputs, 4 * count * outputs, count * outputs)
            for tile in range(begin, end):
                y, x = tile // wide * 2, tile % wide * 2
                for c in range(0, outputs, WIDTH):
                    at = (tile - begin) * outputs + c
                    turn_output(products, at, leaps, cube, c, (4 * outputs, 2 * outputs, outputs))
                for dz in range(min(2, depth - z)):
                    for dy in range(min(2, height - y)):
                        for dx in range(min(2, width - x)):
                            to = ((b * depth + z + dz) * height + y + dy) * width + x + dx
                            at = (dz * 4 + dy * 2 + dx) * outputs
                            for c in range(0, outputs, WIDTH):
                                total = add(load(cube, at + c, ONE), load(bias, c, ONE))
                                store(results, to * outputs + c, total)


@compile_kernel
def _correlate(
    first: int,
    last: int,
    registers: tuple[int, ...],
    group: int,
    image: np.ndarray,
    grads: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Sum what the turned weights of an image are due; each image is a task.

    Args:
        first: image.
        last: image, exclusive.
        registers: of outputs at once.
        group: cubes at once.
        image: ``(batch, z, y, x, channels)``.
        grads: ``(batch, z, y, x, outputs)``.
        sums: ``(batch, places, channels, outputs)`` of zeros.
    """
    depth, height, width, channels = image.shape[1:]
    outputs = grads.shape[4]
    high, wide = -(-height // 2), -(-width // 2)
    size = (2 * high + 2, 2 * wide + 2, channels)
    slab = np.zeros(4 * size[0] * size[1] * channels, np.float32)
    turned = np.empty(PLACES * group * channels, np.float32)
    given = np.empty(PLACES * group * outputs, np.float32)
    for b in range(first, last):
        for z in range(0, depth, 2):
            _fill_slab(image[b], z, slab)
            for begin in range(0, high * wide, group):
                end = min(begin + group, high * wide)
                count = end - begin
                _turn_cubes(slab, size, begin, end, turned)
                _turn_gradients(grads[b], z, begin, end, given)
                for place in range(PLACES):
                    at, beside = place * count * channels, place * count * outputs
                    _add_products(registers, turned, at, given, beside, count, sums[b, place])


@partial(compile_kernel, inline=True)
def _fill_slab(image: np.ndarray, z: int, slab: np.ndarray) -> None:
    """Copy what the two planes from ``z`` on depend on.

    Args:
        image: ``(z, y, x, channels)``.
        z: first plane.
        slab: ``(4, y + 2, x + 2, channels)``, its borders zeros, to whole cubes.
    """
    depth, height, width, channels = image.shape
    line = (width + width % 2 + 2) * channels
    plane = (height + height % 2 + 2) * line
    values = image.reshape(-1)
    length = width * channels
    for dz in range(4):
        above = z + dz - 1
        for y in range(height):
            to = dz * plane + (y + 1) * line + channels
            at = (above * height + y) * length
            for i in range(0, length, WIDTH):
                inside = 0 <= above < depth
                store(slab, to + i, load(values, at + i, ONE) if inside else zeros(ONE))


@partial(compile_kernel, inline=True)
def _turn_cubes(
    slab: np.ndarray, size: tuple[int, int, int], begin: int, end: int, turned: np.ndarray
) -> None:
    """Turn cubes of a slab of ``(4, *size)``; their places lie ``end - begin`` rows apart."""
    height, width, channels = size
    leap = (end - begin) * channels
    strides = (height * width * channels, width * channels, channels)
    wide = width // 2 - 1
    for tile in range(begin, end):
        corner = tile // wide * 2 * strides[1] + tile % wide * 2 * channels
        for c in range(0, channels, WIDTH):
            to = (tile - begin) * channels + c
            turn_input(slab, corner + c, strides, turned, to, (16 * leap, 4 * leap, leap))


@partial(compile_kernel, inline=True)
def _turn_gradients(grads: np.ndarray, z: int, begin: int, end: int, turned: np.ndarray) -> None:
    """Turn the gradients of cubes of the two planes from ``z`` on; outside they are zeros."""
    depth, height, width, outputs = grads.shape
    values, cube = grads.reshape(-1), np.empty(8 * outputs, np.float32)
    wide, leap = -(-width // 2), (end - begin) * outputs
    for tile in range(begin, end):
        y, x = tile // wide * 2, tile % wide * 2
        for voxel in range(8):
            dz, dy, dx = voxel // 4, voxel // 2 % 2, voxel % 2
            inside = z + dz < depth and y + dy < height and x + dx < width
            at = (((z + dz) * height + y + dy) * width + x + dx) * outputs
            for c in range(0, outputs, WIDTH):
                g = load(values, at + c, ONE) if inside else zeros(ONE)
                store(cube, voxel * outputs + c, g)
        for c in range(0, outputs, WIDTH):
            strides, leaps = (4 * outputs, 2 * outputs, outputs), (16 * leap, 4 * leap, leap)
            turn_gradient(cube, c, strides, turned, (tile - begin) * outputs + c, leaps)


@partial(compile_kernel, inline=True)
def _multiply(
    registers: tuple[int, ...],
    rows: np.ndarray,
    at: int,
    inputs: int,
    matrix: np.ndarray,
    out: np.ndarray,
    to: int,
    count: int,
) -> None:
    """Multiply ``count`` rows from ``rows[at]`` on by a matrix in blocks of columns."""
    width, outputs = len(registers) * WIDTH, len(matrix) // inputs
    whole = count - count % ROWS
    for column in range(0, outputs, width):
        begin = column * inputs
        for row in range(0, whole, ROWS):
            a = at + row * inputs
            s0 = s1 = s2 = s3 = zeros(registers)
            for k in range(inputs):
                w = load(matrix, begin + k * width, registers)
                s0 = add(multiply(w, number(rows, a + k)), s0)
                s1 = add(multiply(w, number(rows, a + inputs + k)), s1)
                s2 = add(multiply(w, number(rows, a + 2 * inputs + k)), s2)
                s3 = add(multiply(w, number(rows, a + 3 * inputs + k)), s3)
            end = to + row * outputs + column
            store(out, end, s0)
            store(out, end + outputs, s1)
            store(out, end + 2 * outputs, s2)
            store(out, end + 3 * outputs, s3)
        for row in range(whole, count):
            s0 = zeros(registers)
            for k in range(inputs):
                w = load(matrix, begin + k * width, registers)
                s0 = add(multiply(w, rows[at + row * inputs + k]), s0)
            store(out, to + row * outputs + column, s0)


@partial(compile_kernel, inline=True)
def _add_products(
    registers: tuple[int, ...],
    left: np.ndarray,
    at: int,
    right: np.ndarray,
    beside: int,
    count: int,
    total: np.ndarray,
) -> None:
    """Add to ``(inputs, outputs)`` the products of rows from ``left[at]``, ``right[beside]`` on."""
    inputs, outputs = total.shape
    sums = total.reshape(-1)
    for column in range(0, outputs, len(registers) * WIDTH):
        for k in range(0, inputs, ROWS):
            to = k * outputs + column
            s0, s1 = load(sums, to, registers), load(sums, to + outputs, registers)
            s2 = load(sums, to + 2 * outputs, registers)
            s3 = load(sums, to + 3 * outputs, registers)
            for row in range(count):
                a = at + row * inputs + k
                v = load(right, beside + row * outputs + column, registers)
                s0 = add(multiply(v, number(left, a)), s0)
                s1 = add(multiply(v, number(left, a + 1)), s1)
                s2 = add(multiply(v, number(left, a + 2)), s2)
                s3 = add(multiply(v, number(left, a + 3)), s3)
            store(sums, to, s0)
            store(sums, to + outputs, s1)
            store(sums, to + 2 * outputs, s2)
            store(sums, to + 3 * outputs, s3)
