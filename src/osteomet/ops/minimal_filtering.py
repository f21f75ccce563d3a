"""Matrices of minimal filtering: neighbouring results of a filter from as few products as can be.

``made`` neighbouring results of a filter of ``taps`` depend on ``made + taps - 1`` numbers, and
that many products suffice where ``made * taps`` are usual: results are the transpose of a product
of two polynomials, which is known from its values at as many points. With exact numbers nothing is
lost; with float32 errors grow with the points, and with how unlike they are.

Sources: Winograd, "Arithmetic Complexity of Computations", 1980; Toom, "The Complexity of a Scheme
of Functional Elements Realizing the Multiplication of Integers", 1963; of points that lose little:
Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
Networks", arXiv:1803.10986.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log2

Rows = list[list[Fraction]]
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MinimalFilter:
    """Results are ``output @ ((filter @ taps) * (input @ numbers))``.

    Attributes:
        input: ``(products, products)``.
        filter: ``(products, taps)``.
        output: ``(made, products)``.
    """

    input: Matrix
    filter: Matrix
    output: Matrix


def minimal_filter(made: int, taps: int, points: Sequence[Fraction]) -> MinimalFilter:
    """Return the matrices for results ``sum(tap[k] * number[j + k] for k in range(taps))``.

    Args:
        made: results at once.
        taps: of the filter.
        points: where the polynomials are evaluated; infinity is one more.

    Raises:
        ValueError: There are not ``made + taps - 2`` different points.
    """
    products = made + taps - 1
    if len(set(points)) != len(points) or len(points) != products - 1:
        raise ValueError(f"{len(points)} points; expected {products - 1} different ones")
    of_results, of_taps, of_both = (_powers(points, terms) for terms in (made, taps, products))
    inputs = _transposed(_inverse(of_both))
    # A power of two may move from one matrix to another without a rounding.
    for i in range(products):
        for matrix in inputs, of_taps:
            scale = Fraction(2) ** round(log2(sum(abs(number) for number in matrix[i])))
            matrix[i] = [number / scale for number in matrix[i]]
            of_results[i] = [number * scale for number in of_results[i]]
    return MinimalFilter(_floats(inputs), _floats(of_taps), _floats(_transposed(of_results)))


def _powers(points: Sequence[Fraction], terms: int) -> Rows:
    """Return what turns a polynomial's coefficients into its values, the last at infinity."""
    last = [Fraction(int(i == terms - 1)) for i in range(terms)]
    return [[point**i for i in range(terms)] for point in points] + [last]


def _inverse(matrix: Rows) -> Rows:
    """Return the inverse, exactly."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [number / rows[i][i] for number in rows[i]]
        for j in range(size):
            if j != i:
                factor = rows[j][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size:] for row in rows]


def _transposed(matrix: Rows) -> Rows:
    return [list(column) for column in zip(*matrix, strict=True)]


def _floats(matrix: Rows) -> Matrix:
    return tuple(tuple(float(number) for number in row) for row in matrix)
