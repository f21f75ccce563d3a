"""Minimal filtering against the plain filter, with exact points and in registers."""

from fractions import Fraction

import numpy as np
import pytest

from osteomet.ops.acceleration import NUMBA_ENABLED, compile_kernel
from osteomet.ops.lane_transforms import row_transform
from osteomet.ops.lanes import WIDTH, load, store
from osteomet.ops.minimal_filtering import MinimalFilter, minimal_filter

SIX = (0,) * 6
FIVE_POINTS = [Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-1, 2)]


def filtered(filtering: MinimalFilter, taps: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    turned = (np.array(filtering.filter) @ taps) * (np.array(filtering.input) @ numbers)
    made: np.ndarray = np.array(filtering.output) @ turned
    return made


@pytest.mark.parametrize(
    ("made", "taps", "points"),
    [
        (2, 3, [Fraction(0), Fraction(1), Fraction(-1)]),
        (4, 3, FIVE_POINTS),
        (3, 4, [Fraction(3), *FIVE_POINTS[1:]]),
        (1, 1, []),
    ],
)
def test_results_are_those_of_the_plain_filter(
    made: int, taps: int, points: list[Fraction]
) -> None:
    numbers = np.random.default_rng(0).normal(size=made + taps - 1)
    given = np.random.default_rng(1).normal(size=taps)
    expected = np.correlate(numbers, given)
    found = filtered(minimal_filter(made, taps, points), given, numbers)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "points", [[Fraction(0), Fraction(1)], [Fraction(0), Fraction(1), Fraction(1)]]
)
def test_points_are_counted(points: list[Fraction]) -> None:
    with pytest.raises(ValueError, match="expected 3 different ones"):
        minimal_filter(2, 3, points)


FILTERING = minimal_filter(4, 3, FIVE_POINTS)
turn_input = row_transform(FILTERING.input)
turn_output = row_transform(FILTERING.output)
turn_gradient = row_transform(tuple(zip(*FILTERING.output, strict=True)))


@compile_kernel
def turn(numbers: np.ndarray, out: np.ndarray, back: np.ndarray) -> None:
    made = turn_output(turn_input(load(numbers, 0, SIX)))
    store(out, 0, made)
    store(back, 0, turn_gradient(made))


@pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")
def test_registers_are_multiplied_by_a_matrix() -> None:
    """With rows and columns that share work, and with some that do not."""
    numbers = np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32)
    out, back = np.empty(4 * WIDTH, np.float32), np.empty(6 * WIDTH, np.float32)
    turn(numbers.reshape(-1), out, back)
    expected = np.array(FILTERING.output) @ (np.array(FILTERING.input) @ numbers)
    np.testing.assert_allclose(out.reshape(4, WIDTH), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        back.reshape(6, WIDTH), np.array(FILTERING.output).T @ expected, rtol=1e-4, atol=1e-4
    )
