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
"""Neighbouring values that a sum makes at once."""

BLOCK = 16
"""Rows and columns that `turn_block` exchanges at once."""

FRACTION = 22
"""Binary digits behind the point of a weight, as in Pillow."""

LOW = 12
"""How many of them belong to its lower part."""

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


def _fixed_sum(
    typing: Any, source: Any, step: Any, weights: Any, weight_step: Any, pairs: Any, target: Any
) -> Any:
    """`LANES` bytes at `target`: weighted sums of those at `source + k * step`, over k < 2 * `pairs`.

    Weights are whole numbers of `2 ** -FRACTION`, so only the sums are rounded, to the nearest. The upper
    part of each weight, `2 ** LOW` times a number of 16 bits, and the rest are multiplied apart: processors
    multiply and add pairs of 16 bits at once. At `weights + 2 * p * weight_step` lie the upper parts of the
    weights 2p and 2p + 1, one `weight_step` further on the rest of both.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, step, weights, weight_step, pairs, target = arguments
        half = 1 << (FRACTION - 1)  # so that cutting the fraction off rounds
        kind = ir.VectorType(_INDEX, LANES // 2)
        totals = [cgutils.alloca_once_value(builder, _every(kind, begin)) for begin in (0, half) * 2]
        with cgutils.for_range(builder, pairs) as loop:
            first = builder.shl(loop.index, ir.Constant(loop.index.type, 1))
            row = builder.add(source, builder.mul(first, step))
            upper = builder.add(weights, builder.mul(first, weight_step))
            words = ir.VectorType(ir.IntType(16), LANES)
            rows = [
                builder.zext(_load(builder, place, _BYTE, LANES), words)
                for place in (row, builder.add(row, step))
            ]
            parts = [_load(builder, place, _INDEX, 1) for place in (upper, builder.add(upper, weight_step))]
            for number, values in enumerate(_paired(builder, *rows)):
                for part, weight in enumerate(parts):
                    total = totals[2 * number + part]
                    products = _pair_sums(builder, values, weight)
                    builder.store(builder.add(builder.load(total), products), total)
        _store(builder, _rounded(builder, [builder.load(total) for total in totals]), target)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


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


def _paired(builder: Any, one: Any, other: Any) -> list[Any]:
    """The numbers of two vectors in turn, as processors do it: in each piece of 8, first 4 pairs, then 4."""
    halves = []
    for half in (0, 4):
        order = [
            piece + half + place + row
            for piece in range(0, LANES, 8)
            for place in range(4)
            for row in (0, LANES)
        ]
        halves.append(builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INDEX, LANES), order)))
    return halves


def _pair_sums(builder: Any, values: Any, weight: Any) -> Any:
    """Pairs of 16-bit `values` times the pair `weight`, added up; one instruction, as LLVM knows."""
    count = LANES // 2
    wide = ir.VectorType(_INDEX, LANES)
    nothing = ir.Constant(ir.VectorType(_INDEX, count), ir.Undefined)
    first = builder.insert_element(nothing, builder.extract_element(weight, _INDEX(0)), _INDEX(0))
    everywhere = builder.shuffle_vector(first, nothing, _every(ir.VectorType(_INDEX, count), 0))
    weights = builder.sext(builder.bitcast(everywhere, ir.VectorType(ir.IntType(16), LANES)), wide)
    products = builder.mul(builder.zext(values, wide), weights)
    sides = [
        builder.shuffle_vector(
            products, products, ir.Constant(ir.VectorType(_INDEX, count), list(range(side, LANES, 2)))
        )
        for side in (0, 1)
    ]
    return builder.add(*sides)


def _rounded(builder: Any, totals: list[Any]) -> Any:
    """The bytes of the sums in `_fixed_sum`: upper and lower parts of the first halves, then of the rest."""
    half, words = ir.VectorType(_INDEX, LANES // 2), ir.VectorType(ir.IntType(16), LANES)
    sums = []
    for upper, lower in (totals[:2], totals[2:]):
        value = builder.add(builder.shl(upper, _every(half, LOW)), lower)
        value = builder.ashr(value, _every(half, FRACTION))
        sums.append(builder.bitcast(value, words))  # its even words hold all of it
    order = [
        piece + row + place for piece in range(0, LANES, 8) for row in (0, LANES) for place in range(0, 8, 2)
    ]
    value = builder.shuffle_vector(*sums, ir.Constant(ir.VectorType(_INDEX, LANES), order))
    for limit, beyond in ((0, "<"), (255, ">")):
        bound = _every(words, limit)
        value = builder.select(builder.icmp_signed(beyond, value, bound), bound, value)
    return builder.trunc(value, ir.VectorType(_BYTE, LANES))


def _every(kind: Any, value: int) -> Any:
    """A constant vector with the same number everywhere."""
    return ir.Constant(kind, [value] * kind.count)


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


weighted_sum_to_floats = _weighted_sum(_BYTE, _FLOAT)
weighted_sum_of_floats = _weighted_sum(_FLOAT, _BYTE)
fixed_sum: Any = intrinsic(_fixed_sum)
turn_block: Any = intrinsic(_turn_block)
