"""The grammar of `--data`: several sources, their weights, a part of a file, options.

::

    SOURCES   SOURCE,SOURCE,...          commas inside braces and inside ?option=1,2 do not separate
    weighted  SOURCE:0.7,SOURCE:0.3      all of them or none; what stands behind the last colon is a number
              SOURCE:0.7 SOURCE:0.3      behind a weight a blank separates too
    SOURCE    PATH:NAME?option=value&option=value

What exists in the file system under the whole text is taken as it is, whatever characters it has.
"""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from nexus.errors import DataError, unknown

SYNTHETIC = "synthetic:"

_WEIGHT = r"\d+\.?\d*|\.\d+"

_NUMBER = re.compile(r"-?\d[\d.]*(&\w+=[^,]*)*(:[\d.]+)?")
"""What follows the comma in `?bands=3,2`, `?window=40,400&every=2` or `?bands=3,2:0.7`."""


@dataclass(frozen=True)
class Address:
    """One existing place: a path, the name of something inside the file, and options."""

    path: Path
    inner: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The address as it is typed."""
        inner = f":{self.inner}" if self.inner else ""
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.path}{inner}" + (f"?{options}" if options else "")

    def only(self, *known: str, inner: bool = False) -> None:
        """`DataError` unless all options are among `known`, and without `inner` no part is named."""
        for key in self.options:
            if key not in known:
                cure = unknown("option", key, known) if known else f"it takes no options, so not {key!r}"
                raise DataError(f"{self.text}: {cure}")
        if self.inner is not None and not inner:
            raise DataError(f"{self.text}: nothing inside {self.path} can be named; leave out :{self.inner}")


def is_url(text: str) -> bool:
    """Whether a text begins with a scheme of two letters or more: `s3://`, `https://`, never `C:\\`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def exists(path: str | Path) -> bool:
    """Whether something, a broken link perhaps, has this path."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL character
        return False


def find(text: str) -> Address | None:
    """The existing place that a text names, or None."""
    plain = Path(text).expanduser()
    if exists(plain):
        return Address(plain)
    if len(at_commas(text)) > 1 or len(at_blanks(text)) > 1:
        return None
    base, options = _options(text)
    path = Path(base).expanduser()
    if options and exists(path):
        return Address(path, None, options)
    outer, colon, inner = base.rpartition(":")
    path = Path(outer).expanduser()
    if colon and outer and inner and exists(path):
        return Address(path, inner, options)
    return None


def _options(text: str) -> tuple[str, dict[str, str]]:
    found = re.fullmatch(r"(.+?)\?(\w+=[^?&]*(?:&\w+=[^?&]*)*)", text)
    if not found:
        return text, {}
    pairs = (pair.partition("=") for pair in found[2].split("&"))
    return found[1], {key: value for key, _, value in pairs}


def at_commas(text: str) -> list[str]:
    """The parts between commas outside braces; values with commas stay with their option."""
    parts: list[str] = []
    for part in re.split(r",(?![^{]*\})", text):
        before = parts[-1] if parts else ""
        setting = before.startswith(SYNTHETIC) and re.fullmatch(r"\s*\w+=[^/]*", part)
        number = re.search(r"\?(?:.*&)?\w+=[-\d.,]+$", before) and _NUMBER.fullmatch(part)
        if setting or number:
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return [part for part in parts if part]


def at_blanks(text: str) -> list[str]:
    """The parts of `a:0.7 b:0.3`: a blank separates behind a weight, unless it belongs to what exists.

    `my photos:1` is one source, and so is `run:1 photos:0.7` if `run:1 photos` exists.
    """
    ends = [found.end() for found in re.finditer(rf":(?:{_WEIGHT})(?=\s|$)", text)]
    parts: list[str] = []
    begin = 0
    for end in [*ends, len(text)]:
        longer = [text[begin:later].strip() for later in {*ends, len(text)} if later > end]
        if text[begin:end].strip() and not any(_is_there(part) for part in longer):
            parts.append(text[begin:end].strip())
            begin = end
    return parts


def _is_there(part: str) -> bool:
    """Whether a source exists as it stands, or without its weight."""
    bare = re.sub(rf":(?:{_WEIGHT})$", "", part)
    return exists(Path(part).expanduser()) or exists(Path(bare).expanduser())


def has_weight(part: str) -> bool:
    """Whether a source ends in a weight."""
    return _weight(part)[1] is not None


def weighted(parts: Sequence[str]) -> tuple[list[str], list[Fraction] | None]:
    """The sources of a list and their weights; None where no part ends in `:NUMBER`.

    A part that exists as it stands has no weight, nor has a URL whose number is the port.
    """
    cut = [_weight(part) for part in parts]
    if all(weight is None for _, weight in cut):
        return list(parts), None
    missing = [text for text, weight in cut if weight is None]
    if missing:
        raise DataError(
            f"{missing[0]} has no weight, but other sources have one; give every source one, "
            f"such as {missing[0]}:1, or none"
        )
    weights = [weight for _, weight in cut if weight is not None]
    if min(weights) <= 0:
        raise DataError(f"weights must be above 0: {', '.join(parts)}; leave out what shall not be drawn")
    return [text for text, _ in cut], weights


def _weight(part: str) -> tuple[str, Fraction | None]:
    found = re.fullmatch(rf"(.+):({_WEIGHT})", part, re.DOTALL)
    if not found or exists(Path(part).expanduser()) or re.fullmatch(r"[A-Za-z][\w+.-]+://[^/]*", found[1]):
        return part, None
    return found[1], Fraction(found[2])


def braces(text: str) -> list[str]:
    """`a-{00..02}.tar` as three patterns, `{a,b}/*.jpg` as two; as in a shell, nested braces aside."""
    found = re.search(r"\{([^{}]*)\}", text)
    if not found:
        return [text]
    inner = found[1]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if span:
        low, high = int(span[1]), int(span[2])
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        choices = [f"{i:0{width}d}" for i in range(low, high + 1)]
    else:
        choices = inner.split(",")
    tails = braces(text[found.end() :])
    return [text[: found.start()] + a + b for a, b in itertools.product(choices, tails)]
