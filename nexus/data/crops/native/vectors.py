"""The two steps that decide the speed of a resize, as vector instructions for whatever processor there is.

Numba turns plain loops into vector code, but not these two: sums that stay in registers, and blocks of bytes
whose rows and columns change places. They are written in LLVM's own words. Addresses and steps count bytes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64
"""Neighbouring values that `weighted_sum` makes at once."""

BLOCK = 16
"""Rows and columns that `turn_block` exchanges at once."""

_BYTE, _FLOAT, _INDEX = ir.IntType(8), ir.FloatType(), ir.IntType(32)


def _weighted_sum(read: Any, write: Any) -> Any:
    """A step that sums numbers of type `read` and leaves numbers of type `write`: bytes or float32."""

    def step(
        typing: Any, source: Any, step: Any, weights: Any, weight_step: Any, taps: Any, target: Any
    ) -> Any:
        """`LANES` numbers at `target`: the sums, over k < `taps`, of those at `source + k * step` times the
        float32 at `weights + k * weight_step`. In one order, with one rounding a tap, on every processor.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, step, weights, weight_step, taps, target = arguments
            floats = ir.VectorType(_FLOAT, LANES)
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fma.v{LANES}f32"
            )
            start = 0.5 if write is _BYTE else 0.0
            total = cgutils.alloca_once_value(builder, _all(builder, _FLOAT(start)))
            with cgutils.for_range(builder, taps) as loop:
                values = _load(builder, builder.add(source, builder.mul(loop.index, step)), read, LANES)
                values = builder.uitofp(values, floats) if read is _BYTE else values
                place = builder.add(weights, builder.mul(loop.index, weight_step))
                weight = _all(builder, builder.load(builder.inttoptr(place, _FLOAT.as_pointer())))
                builder.store(builder.call(multiply_add, [values, weight, builder.load(total)]), total)
            result = builder.load(total)
            _store(builder, _as_bytes(builder, result) if write is _BYTE else result, target)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), generate

    return intrinsic(step)


def _turn_block(typing: Any, source: Any, step: Any, target: Any, target_step: Any) -> Any:
    """A square of `BLOCK` bytes each way: the rows at `source` become the columns at `target`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, step, target, target_step = arguments
        rows = []
        for _ in range(BLOCK):
            rows.append(_load(builder, source, _BYTE, BLOCK))
            source = builder.add(source, step)
        half = BLOCK // 2
        for _ in range(4):  # each time the rows are twice as many steps apart in one vector
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [row for pair in pairs for row in _interleaved(builder, *pair)]
        for row in rows:
            _store(builder, row, target)
            target = builder.add(target, target_step)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


def _all(builder: Any, value: Any) -> Any:
    """A vector with the same number everywhere."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, _INDEX(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


def _interleaved(builder: Any, one: Any, other: Any) -> list[Any]:
    """The numbers of two vectors in turn: first those of their first halves, then the rest."""
    order = [place + offset for place in range(BLOCK) for offset in (0, BLOCK)]
    halves = [ir.Constant(ir.VectorType(_INDEX, BLOCK), half) for half in (order[:BLOCK], order[BLOCK:])]
    return [builder.shuffle_vector(one, other, half) for half in halves]


def _load(builder: Any, address: Any, kind: Any, count: int) -> Any:
    pointer = builder.inttoptr(address, ir.VectorType(kind, count).as_pointer())
    return builder.load(pointer, align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _as_bytes(builder: Any, values: Any) -> Any:
    """Whole parts, cut off at 0 and 255."""
    for limit, beyond in ((_FLOAT(0.0), "<"), (_FLOAT(255.0), ">")):
        bound = _all(builder, limit)
        values = builder.select(builder.fcmp_ordered(beyond, values, bound), bound, values)
    return builder.trunc(builder.fptosi(values, ir.VectorType(_INDEX, LANES)), ir.VectorType(_BYTE, LANES))


weighted_sum = _weighted_sum(_BYTE, _BYTE)
weighted_sum_to_floats = _weighted_sum(_BYTE, _FLOAT)
weighted_sum_of_floats = _weighted_sum(_FLOAT, _BYTE)
turn_block: Any = intrinsic(_turn_block)
