"""`open_dataset`: whatever people point at, found out by looking at it."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from nexus.data.datasets.address import SYNTHETIC, at_blanks, at_commas, braces, find, is_url, weighted
from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.joined import JoinedDataset, MixtureDataset
from nexus.data.datasets.kinds import SINGLE, images_source, recognise, tars_source
from nexus.data.datasets.names import extension, is_image_name
from nexus.data.datasets.pack import is_tar_name
from nexus.data.datasets.source import Source, whole
from nexus.data.datasets.splits import canonical
from nexus.data.datasets.synthetic import open_synthetic
from nexus.data.datasets.web import web_source
from nexus.data.images import DEFAULT_LIMITS, ImageLimits
from nexus.errors import DataError, nearest

Spec = str | Path | ImageDataset


def open_dataset(
    spec: Spec | Sequence[Spec], split: str | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> ImageDataset:
    """The images of a source, whatever it is.

    A path, a pattern, a URL, `synthetic:n=256,size=64`, or several of these, in a sequence or separated by
    commas, with weights perhaps (`a:0.7,b:0.3` or `a:0.7 b:0.3`). `docs/data.md` lists every sort of file and
    folder, and `nexus/data/datasets/kinds.py` says how it is recognised.

    `split` chooses one of `available_splits(spec)`; without it everything is opened. Raises `DataError` with
    what is wrong and the cure. Unusable images are not looked for here: they raise `ImageError` when read.
    """
    return _recognise(spec).open(split, limits)


def available_splits(spec: Spec | Sequence[Spec]) -> tuple[str, ...]:
    """The splits that `open_dataset(spec, split)` takes, train first; empty where there are none."""
    return _recognise(spec).splits()


def _recognise(spec: Spec | Sequence[Spec]) -> Source:
    if isinstance(spec, ImageDataset):
        return whole(spec.description, lambda limits: spec)
    if not isinstance(spec, str | Path):
        if not isinstance(spec, Sequence):
            raise DataError(f"data={spec!r} is no data source; name a folder, a list, an archive or several")
        return _several(list(spec))
    text = os.fspath(spec)
    if not text.strip():
        raise DataError("no data given; name a folder, a list, an archive, or synthetic:n=256,size=64")
    address = find(text)
    if address is not None:
        return recognise(address)
    parts = [source for part in at_commas(text) for source in at_blanks(part)]
    if len(parts) > 1:
        return _several(parts)
    if text.startswith(SYNTHETIC):
        return whole(text, lambda limits: open_synthetic(text, limits))
    if is_url(text):
        return web_source(text, recognise)
    if re.search(r"[*?\[{]", text):
        return _pattern(str(Path(text).expanduser()))
    raise DataError(_missing(Path(text).expanduser()))


def _pattern(text: str) -> Source:
    """The sources that a pattern matches; all images of the pattern form one source, so do all tars."""
    matches = [Path(match) for pattern in braces(text) for match in sorted(_glob(pattern))]
    matches = list(dict.fromkeys(matches))
    if not matches:
        raise DataError(f"nothing matches {text}; {_missing(Path(text))}")
    images = [path for path in matches if path.is_file() and is_image_name(path.name)]
    tars = [path for path in matches if path.is_file() and is_tar_name(path.name)]
    rest = [path for path in matches if path.is_dir() or extension(path.name) in SINGLE]
    ignored = len(matches) - len(images) - len(tars) - len(rest)
    sources = []
    if images:
        root = Path(os.path.commonpath([path.parent for path in images]))
        sources.append(images_source(images, root, f"pattern {text}", ignored))
    if tars:
        sources.append(tars_source(tars))
    if images and rest:  # `imgs/*` matches folders whose images a `**` pattern may name as well
        rest = [p for p in rest if p.is_file() or not any(image.is_relative_to(p) for image in images)]
    sources += [_recognise(path) for path in rest]
    if not sources:
        endings = sorted({path.suffix or "no extension" for path in matches})
        raise DataError(
            f"{text} matches {len(matches):,} files, but no image or archive ({', '.join(endings[:6])})"
        )
    return sources[0] if len(sources) == 1 else _join(sources, text)


def _glob(pattern: str) -> Iterator[str]:
    if not glob.has_magic(pattern):
        return iter([pattern] if os.path.lexists(pattern) else [])
    return glob.iglob(pattern, recursive=True)


def _several(specs: Sequence[Spec]) -> Source:
    if not specs:
        raise DataError("an empty list of data sources; name at least one")
    weights: list[Fraction] | None = None
    if all(isinstance(spec, str) for spec in specs) and len(specs) > 1:
        specs, weights = weighted([str(spec) for spec in specs])
    sources = [_recognise(spec) for spec in specs]
    text = ", ".join(source.text for source in sources)
    return sources[0] if len(sources) == 1 else _join(sources, text, weights)


def _join(sources: Sequence[Source], text: str, weights: Sequence[Fraction] | None = None) -> Source:
    texts = [source.text for source in sources]
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice:
        raise DataError(f"{twice} is listed twice; name each source once")

    def open_them(split: str | None, limits: ImageLimits) -> ImageDataset:
        parts = [source.open(split, limits) for source in sources]
        return JoinedDataset(parts, texts) if weights is None else MixtureDataset(parts, texts, weights)

    def common() -> tuple[str, ...]:
        each = [source.splits() for source in sources]
        kinds = [{canonical(name) for name in splits} for splits in each]
        return tuple(name for name in each[0] if all(canonical(name) in kind for kind in kinds))

    return Source(text, open_them, common)


def _missing(path: Path) -> str:
    """What is not there, and what was perhaps meant."""
    path = path.absolute()
    parent = next(folder for folder in path.parents if folder.is_dir())
    wanted = path.relative_to(parent).parts[0]
    text = f"{path} does not exist" if parent == path.parent else f"{path}: {parent} has no {wanted!r}"
    try:
        guess = nearest(wanted, (name for name in os.listdir(parent) if not name.startswith(".")))
    except OSError:
        guess = None
    return f"{text}; did you mean {parent / guess}?" if guess else f"{text}; check the path"
