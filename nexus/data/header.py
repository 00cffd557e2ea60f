"""What an image file says of itself: its `Header`, here that of ordinary JPEGs; all else is Pillow's matter.

Pillow keeps tables, profiles and tags that crops never need; walking over the segments (ITU-T T.81, Annex B)
takes a tenth of its time. Ordinary is: sequential, 8 bits, grey or three channels, all of them in one scan,
every segment whole and of a known kind. Of anything else, damaged ones too, nothing is said.
"""

import struct
from typing import NamedTuple

_FRAMES = {0xC0, 0xC1}
_SCAN, _EXIF_OR_XMP, _PROFILE_OR_MORE = 0xDA, 0xE1, 0xE2
_PASSED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
"""Tables, the restart interval, comments, application data."""

_SHORTEST = {0xE0: 14, 0xE2: 14, 0xEE: 12}
"""Bytes of application data with which Pillow does not reckon if there are fewer: JFIF, ICC, Adobe."""

_TIFF = {b"II*\x00": "<", b"MM\x00*": ">"}
_ORIENTATION, _SHORT = 0x0112, 3


class Header(NamedTuple):
    """What a file says of itself: sides as stored, Pillow's mode and format, EXIF orientation 1..8."""

    width: int
    height: int
    mode: str
    format: str
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """`(width, height)` after the orientation was applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def plain_jpeg(data: bytes) -> Header | None:
    """The header of an ordinary JPEG, as Pillow would read it; None for every other file."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    place, frame, orientation = 2, b"", None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, end = data[place + 1], place + 2 + (data[place + 2] << 8 | data[place + 3])
        body = data[place + 4 : end]
        if end < place + 4 or end > len(data):
            return None
        if marker in _FRAMES and not frame:
            frame = body
        elif marker == _SCAN:
            return _plain(frame, body, orientation or 1)
        elif marker not in _PASSED or len(body) < _SHORTEST.get(marker, 0):
            return None
        elif marker == _EXIF_OR_XMP:
            exif = body.startswith(b"Exif\0\0")
            found = exif_orientation(body[6:]) if exif and orientation is None else None
            if found is None and (exif or b"tiff:Orientation" in body):
                return None
            orientation = found or orientation
        elif marker == _PROFILE_OR_MORE and body.startswith(b"MPF\0"):  # several pictures
            return None
        place = end
    return None


def _plain(frame: bytes, scan: bytes, orientation: int) -> Header | None:
    """From the bodies of the frame's and the first scan's segments."""
    if len(frame) < 6 or not scan or scan[0] != frame[5] or len(frame) != 6 + 3 * frame[5]:
        return None
    bits, height, width, chans = struct.unpack_from(">BHHB", frame)
    if bits != 8 or chans not in (1, 3) or not (width and height):
        return None
    return Header(width, height, "L" if chans == 1 else "RGB", "JPEG", orientation)


def exif_orientation(exif: bytes) -> int | None:
    """The orientation 1..8 in EXIF data without its name; 1 where there is none; None where it is unclear."""
    order = _TIFF.get(exif[:4])
    if order is None or len(exif) < 14:
        return None
    (begin,) = struct.unpack_from(order + "I", exif, 4)
    if begin < 8 or begin + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, begin)
    entries = exif[begin + 2 : begin + 2 + 12 * count]
    if len(entries) != 12 * count:
        return None
    tags = struct.iter_unpack(order + "HHIHH", entries)
    found = [(kind, number, value) for tag, kind, number, value, _ in tags if tag == _ORIENTATION]
    if not found:
        return 1
    if len(found) > 1 or found[0][:2] != (_SHORT, 1):
        return None
    return found[0][2] if 1 <= found[0][2] <= 8 else 1
