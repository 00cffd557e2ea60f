"""Where every file of a tar archive begins, found without reading the files.

Own code rather than `tarfile`, because an archive that breaks off must still give what comes before the
break, and because a million members should take seconds. POSIX ustar and pax, GNU long names, base-256
sizes and hard links are understood (POSIX.1-2001 pax; GNU tar manual, "Basic Tar Format").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from nexus.errors import DataError

_BLOCK = 512
_MAX_EXTENSION = 1 << 20


class Member(NamedTuple):
    """A regular file inside an archive."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarIndex:
    """The members up to the end of the archive, or up to the place where it is broken."""

    members: tuple[Member, ...]
    broken: str | None
    """What is wrong after the last member; None for a sound archive."""


class _Broken(Exception):
    pass


def index_tar(path: Path) -> TarIndex:
    """List a plain (uncompressed) tar archive. Of members with one name the last counts, as in `tar`."""
    found: dict[str, Member] = {}
    broken = None
    try:
        with open(path, "rb") as file:
            end = file.seek(0, 2)
            try:
                for member in _members(file, end, found):
                    found[member.name] = member
            except _Broken as error:
                broken = f"{error}; the {len(found):,} files before it are kept"
    except OSError as error:
        raise DataError(f"cannot read the archive {path}: {error.strerror or error}") from None
    return TarIndex(tuple(found.values()), broken)


def _members(file: BufferedIOBase, end: int, earlier: dict[str, Member]) -> Iterator[Member]:
    """Walk from header to header. `earlier` resolves hard links."""
    position = 0
    pending: dict[str, str] = {}
    defaults: dict[str, str] = {}
    while position < end:
        file.seek(position)
        header = file.read(_BLOCK)
        if header.count(0) == len(header):
            return
        _check(header, position)
        kind = header[156:157]
        size = _number(header[124:136])
        data = position + _BLOCK
        if kind in b"LKxg":
            text = _extension(file, data, size, end)
            if kind == b"g":
                defaults |= _pax(text)
            elif kind == b"x":
                pending |= _pax(text)
            else:
                pending["path" if kind == b"L" else "linkpath"] = _text(text)
            position = _after(data, size)
            continue
        tags, pending = defaults | pending, {}
        name = tags.get("path") or _ustar_name(header)
        size = int(tags["size"]) if "size" in tags else size
        if kind == b"1":
            target = earlier.get(tags.get("linkpath") or _text(header[157:257]))
            if target:
                yield target._replace(name=name)
        elif kind in (b"0", b"\0", b"7") and not name.endswith("/"):
            if data + size > end:
                raise _Broken(f"the archive is truncated inside {name!r}")
            yield Member(name.removeprefix("./"), data, size)
        position = data if kind in b"123456" else _after(data, size)


def _after(data: int, size: int) -> int:
    return data + -(-size // _BLOCK) * _BLOCK


def _check(header: bytes, position: int) -> None:
    """The header's own checksum: the sum of its bytes with the checksum field read as spaces."""
    if len(header) < _BLOCK:
        raise _Broken("the archive is truncated inside a file header")
    digits = header[148:156].strip(b" \0")
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if not digits.isdigit() or digits.lstrip(b"0") != b"%o" % total:
        raise _Broken(f"no file header at byte {position:,} (damaged, or not a tar archive)")


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set (sizes from 8 GiB on)."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise _Broken("a damaged number in a file header") from None


def _extension(file: BufferedIOBase, offset: int, size: int, end: int) -> bytes:
    """The payload of a header that describes the next one."""
    if size > _MAX_EXTENSION or offset + size > end:
        raise _Broken("the archive is truncated or damaged inside an extended header")
    file.seek(offset)
    return file.read(size)


def _pax(payload: bytes) -> dict[str, str]:
    """`"27 path=a/long/name.jpg\\n"` records, each beginning with its own length."""
    tags: dict[str, str] = {}
    while payload:
        length, _, _ = payload.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(payload):
            raise _Broken("a damaged extended header")
        record = payload[len(length) + 1 : int(length)].rstrip(b"\n")
        key, _, value = record.partition(b"=")
        tags[_text(key)] = _text(value)
        payload = payload[int(length) :]
    return tags


def _ustar_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
