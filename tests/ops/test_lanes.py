"""Registers in compiled loops against numpy."""

import numpy as np
import pytest

from osteomet.ops.acceleration import NUMBA_ENABLED, compile_kernel
from osteomet.ops.lane_transforms import cube_transform
from osteomet.ops.lanes import (
    FIRST,
    LAST,
    MIDDLE,
    WHOLE,
    WIDTH,
    Ends,
    add,
    add_convolved,
    add_correlated,
    load,
    multiply,
    number,
    store,
    store_apart,
    transpose_square,
    zeros,
)

pytestmark = pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")

THREE, FOUR = (0,) * 3, (0,) * 4
BEGINS = 5
"""Voxel of the row at which the four begin that a step takes."""


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@compile_kernel
def copy_between(source: np.ndarray, target: np.ndarray, at: int) -> None:
    store(target, at, load(source, at, THREE))
    store(target, 0, zeros((0,)))


@compile_kernel
def convolve(row: np.ndarray, taps: np.ndarray, out: np.ndarray, ends: Ends) -> None:
    lanes = load(out, 0, FOUR)
    for _ in range(2):  # carried from turn to turn
        lanes = add_convolved(lanes, row, BEGINS * WIDTH, taps, WIDTH, THREE, ends)
    store(out, 0, lanes)


@compile_kernel
def correlate(row: np.ndarray, grad: np.ndarray, out: np.ndarray, ends: Ends) -> None:
    store(
        out, 0, add_correlated(zeros(THREE), row, BEGINS * WIDTH, grad, BEGINS * WIDTH, FOUR, ends)
    )


def neighbours(row: np.ndarray, ends: Ends) -> np.ndarray:
    """Return the six voxels that four have as neighbours, zeros beyond an end of the row."""
    found = row[BEGINS - 1 : BEGINS + 5].copy()
    if not ends[0]:
        found[0] = 0
    if not ends[1]:
        found[-1] = 0
    return found


def test_load_and_store() -> None:
    source, target = drawn(5 * WIDTH), np.ones(5 * WIDTH, np.float32)
    copy_between(source, target, WIDTH + 1)  # need not be aligned
    expected = np.ones(5 * WIDTH, np.float32)
    expected[WIDTH + 1 : 4 * WIDTH + 1] = source[WIDTH + 1 : 4 * WIDTH + 1]
    expected[:WIDTH] = 0
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("ends", [WHOLE, FIRST, MIDDLE, LAST])
def test_products_of_voxels_and_taps(ends: Ends) -> None:
    row, taps, grad = drawn(12, WIDTH), drawn(4, WIDTH), drawn(12, WIDTH)
    around = neighbours(row, ends)

    sums = np.ones((4, WIDTH), np.float32)
    convolve(row.ravel(), taps.ravel(), sums.ravel(), ends)
    added = sum(taps[1 + tap] * around[tap : tap + 4] for tap in range(3))
    np.testing.assert_allclose(sums, 1 + 2 * added, atol=1e-5)

    out = np.empty((3, WIDTH), np.float32)
    correlate(row.ravel(), grad.ravel(), out.ravel(), ends)
    four = grad[BEGINS : BEGINS + 4]
    expected = [(four * around[tap : tap + 4]).sum(axis=0) for tap in range(3)]
    np.testing.assert_allclose(out, expected, atol=1e-5)


@compile_kernel
def turn(source: np.ndarray, out: np.ndarray, stride: int, leap: int) -> None:
    transpose_square(source, 3, stride, out, 5, leap)


def test_a_square_is_turned_where_it_lies() -> None:
    stride, leap = WIDTH + 2, WIDTH + 4
    source, out = drawn(stride * WIDTH + 3), np.zeros(leap * WIDTH + 5, np.float32)
    turn(source, out, stride, leap)
    rows = source[3:].reshape(WIDTH, stride)[:, :WIDTH]
    columns = out[5:].reshape(WIDTH, leap)
    assert (columns[:, :WIDTH] == rows.T).all()
    assert not columns[:, WIDTH:].any()
    assert not out[:5].any()


NARROWER = ((1, 1, 1, 0), (0, 1, -1, -1))
EQUAL = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WIDER = ((1, 0), (1, 1), (1, -1), (0, -1))
narrower, equal, wider = (cube_transform(matrix) for matrix in (NARROWER, EQUAL, WIDER))
Distances = tuple[int, int, int]


@compile_kernel
def narrow_cube(source: np.ndarray, by: Distances, out: np.ndarray, to: Distances) -> None:
    narrower(source, WIDTH, by, out, 2 * WIDTH, to)


@compile_kernel
def turn_cube(source: np.ndarray, by: Distances, out: np.ndarray, to: Distances) -> None:
    equal(source, WIDTH, by, out, 2 * WIDTH, to)


@compile_kernel
def widen_cube(source: np.ndarray, by: Distances, out: np.ndarray, to: Distances) -> None:
    wider(source, WIDTH, by, out, 2 * WIDTH, to)


@pytest.mark.parametrize(
    ("kernel", "matrix"), [(narrow_cube, NARROWER), (turn_cube, EQUAL), (widen_cube, WIDER)]
)
def test_a_cube_is_multiplied_along_each_axis(kernel: object, matrix: tuple) -> None:
    rows, columns = len(matrix), len(matrix[0])
    cube = drawn(columns + 1, columns + 2, columns + 3, WIDTH)  # it lies in a larger one
    out = np.zeros((rows + 2, rows + 1, rows + 3, WIDTH), np.float32)
    strides, leaps = (
        tuple(step // 4 for step in array.strides[:3])  # numbers, not bytes
        for array in (cube, out)
    )
    kernel(cube.reshape(-1), strides, out.reshape(-1), leaps)
    a = np.array(matrix, dtype=float)
    inside = cube[:columns, :columns, 1 : columns + 1].astype(float)
    expected = np.einsum("zi,yj,xk,ijkw->zyxw", a, a, a, inside)
    np.testing.assert_allclose(out[:rows, :rows, 2 : rows + 2], expected, atol=1e-5)
    out[:rows, :rows, 2 : rows + 2] = 0
    assert not out.any()


@compile_kernel
def spread(source: np.ndarray, out: np.ndarray, at: int, stride: int) -> None:
    store_apart(out, at, stride, add(load(source, 0, THREE), load(source, 3 * WIDTH, (0,))))


def test_registers_are_written_apart_and_one_is_added_to_all() -> None:
    source, out = drawn(4 * WIDTH), np.zeros(9 * WIDTH, np.float32)
    spread(source, out, WIDTH, 3 * WIDTH)
    expected = np.zeros((9, WIDTH), np.float32)
    registers = source.reshape(4, WIDTH)
    expected[[1, 4, 7]] = registers[:3] + registers[3]
    np.testing.assert_array_equal(out.reshape(9, WIDTH), expected)


@compile_kernel
def scale(source: np.ndarray, out: np.ndarray, at: int) -> None:
    store(out, 0, multiply(load(out, 0, THREE), number(source, at)))


def test_a_number_is_read_where_it_lies() -> None:
    source, out = drawn(7), np.ones(3 * WIDTH, np.float32)
    scale(source, out, 5)
    np.testing.assert_array_equal(out, np.full(3 * WIDTH, source[5]))
