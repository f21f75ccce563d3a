"""Products of fixed matrices with registers in compiled loops, as minimal filtering needs them.

The matrices are known when code is made: their zeros cost nothing, a product and a sum are one
operation, and what two rows or two columns share is computed once.
"""

import itertools
from collections.abc import Callable
from typing import Any

from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.lanes import FUSED, LANES, REGISTER, WIDTH, Made, Memory, on_registers

if NUMBA_ENABLED:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils

Signs = tuple[tuple[int, ...], ...]
Matrix = tuple[tuple[float, ...], ...]
Cube = dict[tuple[int, ...], Any]
"""What lies at each place of a cube, z, y, x."""


def row_transform(matrix: Matrix) -> Callable[..., Any]:
    """Make what multiplies a row of registers by a matrix.

    Two rows of it, or two columns, whose numbers differ in signs alone take the work of one.

    Returns:
        For compiled loops: takes as many registers as the matrix has columns, and returns as many
        as it has rows.
    """

    @on_registers
    def transform(_: Any, lanes: Any) -> Made:
        def make(_: Any, builder: Any, __: Any, given: Any) -> Any:
            row = cgutils.unpack_tuple(builder, given[0])
            return cgutils.pack_array(builder, _multiply(builder, matrix, row))

        return types.UniTuple(LANES, len(matrix))(lanes), make

    return transform


def cube_transform(matrix: Signs) -> Callable[..., Any]:
    """Make what multiplies a cube of registers by a matrix of 0, 1 and -1 along each axis.

    Args:
        matrix: as many columns as the cube has registers a side, and as many rows as it shall
            have.

    Returns:
        For compiled loops ``(source, at, strides, out, to, leaps)``: where in ``source`` the cube
        begins, how far its next register lies along each axis, and the same of the result.
    """

    @on_registers
    def transform(
        _: Any, source: Any, at: Any, strides: Any, out: Any, to: Any, leaps: Any
    ) -> Made:
        def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            def read(key: tuple[int, ...]) -> Any:
                return Memory(context, builder, kinds[0], given[0], places[key]).load(0)

            def write(key: tuple[int, ...], register: Any) -> None:
                memory = Memory(context, builder, kinds[1], given[3], targets[key])
                memory.store(0, register)

            kinds = signature.args[0], signature.args[3]
            rows, columns = len(matrix), len(matrix[0])
            places = _cube_places(builder, given[1], given[2], columns)
            targets = _cube_places(builder, given[4], given[5], rows)
            if rows < columns:  # slices first: they leave less to be kept
                cube: Cube = {}
                for x in range(columns):
                    part = {key: read(key) for key in places if key[2] == x}
                    cube |= _along(builder, _along(builder, part, 0, matrix), 1, matrix)
                for key, register in _along(builder, cube, 2, matrix).items():
                    write(key, register)
            else:
                cube = _along(builder, {key: read(key) for key in places}, 2, matrix)
                for x in range(rows):
                    part = {key: cube[key] for key in cube if key[2] == x}
                    part = _along(builder, _along(builder, part, 0, matrix), 1, matrix)
                    for key, register in part.items():
                        write(key, register)
            return context.get_dummy_value()

        distances = types.UniTuple(types.intp, 3)
        return types.void(source, types.intp, distances, out, types.intp, distances), make

    return transform


def _cube_places(builder: Any, at: Any, strides: Any, side: int) -> Cube:
    """Return where in an array each place of a cube lies."""
    places = {}
    for key in itertools.product(range(side), repeat=3):
        places[key] = at
        for count, stride in zip(key, cgutils.unpack_tuple(builder, strides), strict=True):
            step = builder.mul(stride, ir.IntType(64)(count))
            places[key] = builder.add(places[key], step)
    return places


def _along(builder: Any, cube: Cube, axis: int, matrix: Signs) -> Cube:
    """Multiply a cube of registers by a matrix along one axis."""
    made = {}
    for key in cube:
        if key[axis] == 0:
            for row, signs in enumerate(matrix):
                here = [(*key[:axis], i, *key[axis + 1 :]) for i in range(len(signs))]
                terms = [(sign, cube[k]) for sign, k in zip(signs, here, strict=True) if sign]
                terms.sort(key=lambda term: -term[0])  # from the first that needs no other sign
                sign, total = terms[0]
                total = total if sign > 0 else builder.fneg(total)
                for sign, term in terms[1:]:
                    total = (builder.fadd if sign > 0 else builder.fsub)(total, term)
                made[*key[:axis], row, *key[axis + 1 :]] = total
    return made


def _multiply(builder: Any, matrix: Matrix, row: list[Any]) -> list[Any]:
    """Return the product of a matrix and a column of registers."""
    made: list[Any] = [None] * len(matrix)
    columns = tuple(zip(*matrix, strict=True))
    pair = _first_pair(columns)
    if pair is not None:  # sums and differences of what they multiply
        one, other = pair
        left = [i for i in range(len(row)) if i not in pair]
        both = builder.fadd(row[one], row[other]), builder.fsub(row[one], row[other])
        same = [a if a == b else 0.0 for a, b in zip(columns[one], columns[other], strict=True)]
        apart = [a if a != b else 0.0 for a, b in zip(columns[one], columns[other], strict=True)]
        rest = zip(*(columns[i] for i in left), same, apart, strict=True)
        return _multiply(builder, tuple(rest), [row[i] for i in left] + list(both))
    for one in range(len(matrix)):
        if made[one] is not None:
            continue
        other = next((i for i in range(one + 1, len(matrix)) if _alike(matrix[one], matrix[i])), -1)
        if other < 0:
            made[one] = _weighted(builder, matrix[one], row)
            continue
        signs = [a == b for a, b in zip(matrix[one], matrix[other], strict=True)]
        same = [a if equal else 0.0 for a, equal in zip(matrix[one], signs, strict=True)]
        apart = [0.0 if equal else a for a, equal in zip(matrix[one], signs, strict=True)]
        total, difference = _weighted(builder, same, row), _weighted(builder, apart, row)
        made[one] = builder.fadd(total, difference)
        made[other] = builder.fsub(total, difference)
    return made


def _first_pair(rows: Matrix) -> tuple[int, int] | None:
    """Return the first two rows that differ in signs alone."""
    pairs = itertools.combinations(range(len(rows)), 2)
    return next((pair for pair in pairs if _alike(rows[pair[0]], rows[pair[1]])), None)


def _alike(row: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether two rows have the same sizes, with some signs equal and some not."""
    found = [(a, b) for a, b in zip(row, other, strict=True) if a or b]
    return all(abs(a) == abs(b) for a, b in found) and len({a == b for a, b in found}) == 2


def _weighted(builder: Any, weights: Any, row: list[Any]) -> Any:
    """Return the sum of registers times numbers, of which one at least is not zero."""
    total = None
    for weight, register in zip(weights, row, strict=True):
        if weight:
            product = register
            if weight != 1:
                factor = ir.Constant(REGISTER, [float(weight)] * WIDTH)
                product = builder.fmul(register, factor, flags=FUSED)
            total = product if total is None else builder.fadd(total, product, flags=FUSED)
    return total
