"""What an ONNX file says about itself, without the onnx package and without reading its weights.

An ONNX file is one protocol buffer: a sequence of fields, each a number, a wire type and a value. Values
that are not of interest are skipped by their length.

::

    ModelProto   1 ir_version   2 producer   3 its version   7 graph   8 opset_import {1 domain, 2 version}
    GraphProto   11 input   12 output                        each a ValueInfo {1 name, 2 type}
    TypeProto    1 tensor {1 element type, 2 shape {1 dimension {1 size, 2 name}}}
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from nexus.errors import WeightsError

_ELEMENTS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
_LONGEST_TEXT = 1 << 16


def onnx_facts(path: Path) -> dict[str, Any]:
    """`producer`, `opset`, `inputs` and `outputs` (name, type, shape; dynamic axes by name)."""
    facts: dict[str, Any] = {"ir_version": None, "producer": "not said", "opset": None}
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, 0, path.stat().st_size):
                if number == 1:
                    facts["ir_version"] = value
                elif number == 2:
                    facts["producer"] = _text(file, value)
                elif number == 3:
                    facts["producer"] = f"{facts['producer']} {_text(file, value)}".strip()
                elif number == 8:
                    domain, version = _opset(file, value)
                    if domain in ("", "ai.onnx"):
                        facts["opset"] = version
                elif number == 7:
                    facts |= _graph(file, value)
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is a damaged ONNX file ({error}); copy it again") from None
    return facts


def _fields(file: Any, start: int, end: int) -> Iterator[tuple[int, Any]]:
    """Number and value of each field; of bytes and messages the place, as (start, end)."""
    while start < end:
        file.seek(start)
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value = _varint(file)
            start = file.tell()
        elif wire == 2:
            length = _varint(file)
            value = file.tell(), file.tell() + length
            start = value[1]
        elif wire in (1, 5):
            value, start = None, file.tell() + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if start > end:
            raise ValueError("a field reaches beyond its end")
        yield number, value


def _varint(file: Any) -> int:
    result = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends too early")
        result |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return result
    raise ValueError("a number is too long")


def _text(file: Any, place: tuple[int, int]) -> str:
    file.seek(place[0])
    return file.read(min(place[1] - place[0], _LONGEST_TEXT)).decode("utf-8", "replace")


def _message(file: Any, place: tuple[int, int]) -> list[tuple[int, Any, BytesIO]]:
    """The fields of a small message, with the bytes that their places refer to."""
    file.seek(place[0])
    data = BytesIO(file.read(min(place[1] - place[0], _LONGEST_TEXT)))
    return [(number, value, data) for number, value in _fields(data, 0, len(data.getvalue()))]


def _opset(file: Any, place: tuple[int, int]) -> tuple[str, int]:
    domain, version = "", 0
    for number, value, data in _message(file, place):
        if number == 1:
            domain = _text(data, value)
        elif number == 2:
            version = value
    return domain, version


def _graph(file: Any, place: tuple[int, int]) -> dict[str, list[str]]:
    found: dict[int, list[str]] = {11: [], 12: []}
    for number, value in _fields(file, *place):
        if number in found:
            found[number].append(_value(file, value))
    return {"inputs": found[11], "outputs": found[12]}


def _value(file: Any, place: tuple[int, int]) -> str:
    """`images: float32 (batch, 3, height, width)`."""
    name = kind = ""
    for number, value, data in _message(file, place):
        if number == 1:
            name = _text(data, value)
        elif number == 2:
            kind = _type(data, value)
    return f"{name}: {kind}" if kind else name


def _type(file: Any, place: tuple[int, int]) -> str:
    for number, value, data in _message(file, place):
        if number == 1:
            element, axes = "", []
            for key, part, inner in _message(data, value):
                if key == 1:
                    element = _ELEMENTS.get(part, f"type {part}")
                elif key == 2:
                    axes = [_axis(shape, axis) for _, axis, shape in _message(inner, part)]
            return f"{element} ({', '.join(axes)})"
    return ""


def _axis(file: Any, place: tuple[int, int]) -> str:
    for number, value, data in _message(file, place):
        if number in (1, 2):
            return str(value) if number == 1 else _text(data, value)
    return "?"
