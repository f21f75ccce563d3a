"""Whole registers of the processor in compiled loops.

A compiler makes vectors of an innermost loop over an array, but keeps no sums of it in registers
from one turn of the loop around it to the next, and cannot be told so in Python. Here a value
stands for ``WIDTH`` float32 numbers side by side, one register, and a tuple of them for as many
registers: where a loop carries it from turn to turn, it stays in them.

The functions are for loops of ``compile_kernel``; they exist only where numba does. Their loops
over registers run when code is made, not when it runs. numba's cache does not know that a kernel
depends on this file: clear ``__pycache__`` after a change here.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from osteomet.ops.acceleration import NUMBA_ENABLED

if NUMBA_ENABLED:
    from llvmlite import binding, ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic, models, register_model
    from numba.np import arrayobj


def _width() -> int:
    """Ask the processor, and not torch, whose answer the environment changes.

    Where kernels are kept, numba looks at the processor alone: one kept for registers of another
    width would be taken for these.
    """
    try:
        return 16 if binding.get_host_cpu_features().get("avx512f") else 8
    except RuntimeError:  # a processor that LLVM tells nothing of
        return 8


WIDTH = _width() if NUMBA_ENABLED else 8
"""Numbers in a register."""

Ends = tuple[tuple[int, ...], tuple[int, ...]]
NEAR = (1, 2, 3)
WHOLE: Ends = ((), ())
FIRST: Ends = ((), NEAR)
MIDDLE: Ends = (NEAR, NEAR)
LAST: Ends = (NEAR, ())
"""Where in a row some voxels lie. Tuples, because a compiler knows how long they are: one item
for each neighbour that the row has before them, and for each after; those of 7 taps at most."""

Made = tuple[Any, Callable[..., Any]]
"""What numba asks of an intrinsic: its types, and what writes its instructions."""

FUSED = ("contract",)
"""Product and sum are rounded once, together."""
REGISTER: Any = None
LANES: Any = None
"""A register's type, of LLVM and of numba."""

if NUMBA_ENABLED:
    REGISTER = ir.VectorType(ir.FloatType(), WIDTH)

    class _LanesType(types.Opaque):
        """One register."""

    @register_model(_LanesType)
    class _LanesModel(models.PrimitiveModel):
        def __init__(self, manager: Any, numba_type: Any) -> None:
            super().__init__(manager, numba_type, REGISTER)  # type: ignore[no-untyped-call]

    LANES = _LanesType(f"Lanes{WIDTH}")


def on_registers(function: Callable[..., Made]) -> Callable[..., Any]:
    """Make an intrinsic, which compiled loops may call; without numba there are none."""
    if not NUMBA_ENABLED:
        return function
    made: Callable[..., Any] = intrinsic(inspect.unwrap(function))
    return made


@on_registers
def zeros(_: Any, like: Any) -> Made:
    """Return as many registers of zeros as the tuple ``like`` has items."""

    def make(__: Any, builder: Any, ___: Any, ____: Any) -> Any:
        return cgutils.pack_array(builder, [ir.Constant(REGISTER, [0.0] * WIDTH)] * len(like))

    return types.UniTuple(LANES, len(like))(like), make


@on_registers
def load(_: Any, array: Any, at: Any, like: Any) -> Made:
    """Return the numbers from ``array[at]`` on, in as many registers as ``like`` has items."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        memory = Memory(context, builder, signature.args[0], *given[:2])
        return cgutils.pack_array(builder, [memory.load(i) for i in range(len(like))])

    return types.UniTuple(LANES, len(like))(array, types.intp, like), make


@on_registers
def load_apart(_: Any, array: Any, at: Any, stride: Any, like: Any) -> Made:
    """Return the register at ``array[at]``, that at ``array[at + stride]`` and so on."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes, place = [], given[1]
        for _ in range(len(like)):
            lanes.append(Memory(context, builder, signature.args[0], given[0], place).load(0))
            place = builder.add(place, given[2])
        return cgutils.pack_array(builder, lanes)

    return types.UniTuple(LANES, len(like))(array, types.intp, types.intp, like), make


@on_registers
def store(_: Any, array: Any, at: Any, lanes: Any) -> Made:
    """Write registers to ``array[at]`` and on."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        memory = Memory(context, builder, signature.args[0], *given[:2])
        for i, register in enumerate(cgutils.unpack_tuple(builder, given[2])):
            memory.store(i, register)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), make


@on_registers
def store_apart(_: Any, array: Any, at: Any, stride: Any, lanes: Any) -> Made:
    """Write registers to ``array[at]``, ``array[at + stride]`` and so on."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        place = given[1]
        for register in cgutils.unpack_tuple(builder, given[3]):
            Memory(context, builder, signature.args[0], given[0], place).store(0, register)
            place = builder.add(place, given[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), make


@on_registers
def number(_: Any, array: Any, at: Any) -> Made:
    """Return ``array[at]``, without a look whether it shall be counted from the end."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(Memory(context, builder, signature.args[0], *given).start)

    return types.float32(array, types.intp), make


@on_registers
def prefetch(_: Any, array: Any, at: Any) -> Made:
    """Ask for the cache line of ``array[at]``, which may lie beyond the array."""

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start = Memory(context, builder, signature.args[0], *given).start
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        # to read, into the nearest cache, as data
        builder.call(ask, [builder.bitcast(start, byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), make


@on_registers
def add(_: Any, lanes: Any, other: Any) -> Made:
    """Return the sums of registers and others, or one; with a product: one operation."""
    return _register_by_register("fadd", lanes, other)


@on_registers
def multiply(_: Any, lanes: Any, other: Any) -> Made:
    """Return the products of registers and others, or one register or number for all."""
    return _register_by_register("fmul", lanes, other)


@on_registers
def total(_: Any, lanes: Any) -> Made:
    """Return the sum of all numbers in registers."""

    def make(_: Any, builder: Any, __: Any, given: Any) -> Any:
        waiting = cgutils.unpack_tuple(builder, given[0])
        while len(waiting) > 1:  # two by two, so that no sum waits for all before it
            waiting.append(builder.fadd(waiting.pop(0), waiting.pop(0)))
        lane, count = waiting[0], WIDTH
        while count > 1:  # fold the upper half onto the lower
            count //= 2
            upper = [(i + count) % WIDTH for i in range(WIDTH)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), upper)
            lane = builder.fadd(lane, builder.shuffle_vector(lane, lane, mask))
        return builder.extract_element(lane, ir.IntType(32)(0))

    return types.float32(lanes), make


@on_registers
def transpose_square(
    _: Any, source: Any, at: Any, stride: Any, out: Any, to: Any, leap: Any
) -> Made:
    """Turn a square of as many rows and columns as a register has numbers.

    Args:
        source: the rows.
        at: where in ``source`` the first begins.
        stride: from one to the next.
        out: takes the columns.
        to: where in ``out`` the first goes.
        leap: from one to the next.
    """

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        rows = []
        for i in range(WIDTH):
            place = builder.add(given[1], builder.mul(given[2], ir.IntType(64)(i)))
            rows.append(Memory(context, builder, signature.args[0], given[0], place).load(0))
        half = 1
        while half < WIDTH:  # exchange halves of ever larger blocks, across the diagonal
            for i in range(WIDTH):
                if not i & half:
                    rows[i], rows[i + half] = _exchange(builder, rows[i], rows[i + half], half)
            half *= 2
        for i, row in enumerate(rows):
            place = builder.add(given[4], builder.mul(given[5], ir.IntType(64)(i)))
            Memory(context, builder, signature.args[3], given[3], place).store(0, row)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, out, types.intp, types.intp), make


@on_registers
def add_convolved(
    _: Any, sums: Any, row: Any, at: Any, taps: Any, tap: Any, along: Any, ends: Any
) -> Made:
    """Return the sums of some voxels of a row and the products of taps and their neighbours.

    Args:
        sums: one register for each voxel.
        row: of voxels, one register each.
        at: where in ``row`` these voxels begin.
        taps: one register each.
        tap: where in ``taps`` those of this row begin.
        along: as many items as there are taps along a row.
        ends: their neighbours in the row: ``WHOLE``, ``FIRST``, ``MIDDLE``, ``LAST`` or others.
    """

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        voxels = Memory(context, builder, signature.args[1], *given[1:3])
        weights = Memory(context, builder, signature.args[3], *given[3:5])
        factors = [weights.load(i) for i in range(len(along))]
        inside = _taps_inside(len(sums), len(along), ends)
        products = ((voxel, neighbour, factors[i]) for neighbour, voxel, i in inside)
        return _add_products(builder, given[0], voxels, products)

    return sums(sums, row, types.intp, taps, types.intp, along, ends), make


@on_registers
def add_correlated(
    _: Any, sums: Any, row: Any, at: Any, grad: Any, to: Any, step: Any, ends: Any
) -> Made:
    """Return the sums of taps and the products of some voxels' gradients and their neighbours.

    Args:
        sums: one register for each tap along a row.
        row: of voxels, one register each.
        at: where in ``row`` these voxels begin.
        grad: the gradients of another row.
        to: where in ``grad`` they begin.
        step: as many items as there are voxels.
        ends: their neighbours in the row: ``WHOLE``, ``FIRST``, ``MIDDLE``, ``LAST`` or others.
    """

    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        voxels = Memory(context, builder, signature.args[1], *given[1:3])
        grads = Memory(context, builder, signature.args[3], *given[3:5])
        factors = [grads.load(i) for i in range(len(step))]
        inside = _taps_inside(len(step), len(sums), ends)
        products = ((tap, neighbour, factors[i]) for neighbour, i, tap in inside)
        return _add_products(builder, given[0], voxels, products)

    return sums(sums, row, types.intp, grad, types.intp, step, ends), make


class Memory:
    """Registers' worth of an array's numbers, from a place on.

    Attributes:
        start: pointer to the place.
    """

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        data = arrayobj.make_array(kind)(context, builder, array).data
        self._builder, self.start = builder, builder.gep(data, [at])

    def load(self, register: int) -> Any:
        return self._builder.load(self._pointer(register), align=4)

    def store(self, register: int, lanes: Any) -> None:
        self._builder.store(lanes, self._pointer(register), align=4)

    def _pointer(self, register: int) -> Any:
        place = self._builder.gep(self.start, [ir.IntType(64)(register * WIDTH)])
        return self._builder.bitcast(place, REGISTER.as_pointer())


def _exchange(builder: Any, upper: Any, lower: Any, half: int) -> tuple[Any, Any]:
    """Exchange the right halves of the upper row's blocks with the left ones of the lower's."""
    lanes = ir.VectorType(ir.IntType(32), WIDTH)
    first = [i if not i & half else i - half + WIDTH for i in range(WIDTH)]
    second = [i + half if not i & half else i + WIDTH for i in range(WIDTH)]
    return (
        builder.shuffle_vector(upper, lower, ir.Constant(lanes, first)),
        builder.shuffle_vector(upper, lower, ir.Constant(lanes, second)),
    )


def _register_by_register(operation: str, lanes: Any, other: Any) -> Made:
    def make(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        left = cgutils.unpack_tuple(builder, given[0])
        kind = signature.args[1]
        if isinstance(kind, types.Number):
            number = context.cast(builder, given[1], kind, types.float32)
            place = ir.IntType(32)(0)
            alone = builder.insert_element(ir.Constant(REGISTER, ir.Undefined), number, place)
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
            right = [builder.shuffle_vector(alone, alone, everywhere)] * len(left)
        else:
            right = cgutils.unpack_tuple(builder, given[1])
            right = right * len(left) if len(right) == 1 else right
        combine = getattr(builder, operation)
        results = [combine(a, b, flags=FUSED) for a, b in zip(left, right, strict=True)]
        return cgutils.pack_array(builder, results)

    return lanes(lanes, other), make


def _taps_inside(voxels: int, taps: int, ends: Any) -> Iterable[tuple[int, int, int]]:
    """Give neighbour, voxel and tap: the neighbour lies ``tap - taps // 2`` after the voxel."""
    half = taps // 2
    before, after = (len(side) for side in ends)
    for neighbour in range(-before, voxels + after):
        for voxel in range(voxels):
            tap = neighbour - voxel + half
            if 0 <= tap < taps:
                yield neighbour, voxel, tap


def _add_products(
    builder: Any, sums: Any, memory: Memory, products: Iterable[tuple[int, int, Any]]
) -> Any:
    """Add ``(sum, register of memory, factor)``, loading each register but once."""
    totals = cgutils.unpack_tuple(builder, sums)
    loaded: dict[int, Any] = {}
    for total, register, factor in products:
        if register not in loaded:
            loaded[register] = memory.load(register)
        product = builder.fmul(factor, loaded[register], flags=FUSED)
        totals[total] = builder.fadd(product, totals[total], flags=FUSED)
    return cgutils.pack_array(builder, totals)
