"""`open_dataset`: whatever people point at, found out by looking at it."""

import glob
import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus.data.datasets.base import ImageDataset
from nexus.data.datasets.folder import FileDataset, describe, folder_splits, open_folder
from nexus.data.datasets.joined import JoinedDataset
from nexus.data.datasets.labels import folder_labels
from nexus.data.datasets.listing import LIST_ENDINGS, list_splits, open_list
from nexus.data.datasets.names import extension, is_image_name
from nexus.data.datasets.pack import has_manifest, is_pack, is_tar_name, open_pack, pack_splits, tars_in
from nexus.data.datasets.shards import open_shards
from nexus.data.datasets.splits import canonical, match_split
from nexus.data.datasets.synthetic import PREFIX, open_synthetic
from nexus.data.datasets.zips import open_zip
from nexus.data.images import DEFAULT_LIMITS, ImageLimits
from nexus.errors import DataError, nearest

Spec = str | Path | ImageDataset


@dataclass(frozen=True)
class Source:
    """A recognised source: how to open it, and which splits it has."""

    text: str
    open: Callable[[str | None, ImageLimits], ImageDataset]
    splits: Callable[[], tuple[str, ...]] = tuple


def open_dataset(
    spec: Spec | Sequence[Spec], split: str | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> ImageDataset:
    """The images of a source, whatever it is.

    A folder (searched recursively; class folders become labels; `train/` and `val/` become splits), one
    of tar shards, a pack (tars and `manifest.csv`), a `.tar`, `.tar.gz`, `.zip`, a text, CSV or parquet list
    of paths, one image, a pattern (`imgs/**/*.jpg`, `shards-{000..011}.tar`), `synthetic:n=256,size=64`, or
    several of these, in a sequence or separated by commas.

    `split` chooses one of `available_splits(spec)`; without it everything is opened. Raises `DataError` with
    what is wrong and the cure. Unusable images are not looked for here: they raise `ImageError` when read.
    """
    return _recognise(spec).open(split, limits)


def available_splits(spec: Spec | Sequence[Spec]) -> tuple[str, ...]:
    """The splits that `open_dataset(spec, split)` takes, train first; empty where there are none."""
    return _recognise(spec).splits()


def _recognise(spec: Spec | Sequence[Spec]) -> Source:
    if isinstance(spec, ImageDataset):
        return _simple(spec.description, lambda limits: spec)
    if not isinstance(spec, str | Path):
        if not isinstance(spec, Sequence):
            raise DataError(f"data={spec!r} is no data source; name a folder, a list, an archive or several")
        return _several(list(spec))
    text = os.fspath(spec)
    if not text.strip():
        raise DataError("no data given; name a folder, a list, an archive, or synthetic:n=256,size=64")
    if text.startswith(PREFIX) and len(_at_commas(text)) == 1:
        return _simple(text, lambda limits: open_synthetic(text, limits))
    if re.match(r"\w+://", text):
        raise DataError(f"nexus does not fetch data from the network; download {text} and give its path")
    path = Path(text).expanduser()
    if _exists(path):
        return _folder(path) if path.is_dir() else _file(path)
    parts = _at_commas(text)
    if len(parts) > 1:
        return _several(parts)
    if re.search(r"[*?\[{]", text):
        return _pattern(str(path))
    raise DataError(_missing(path))


def _simple(text: str, opener: Callable[[ImageLimits], ImageDataset]) -> Source:
    """A source without splits."""

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        if split is not None:
            match_split(split, (), text)
        return opener(limits)

    return Source(text, open_it)


def _folder(path: Path) -> Source:
    try:
        if is_pack(path):
            return Source(
                str(path), lambda split, limits: _pack(path, split, limits), lambda: pack_splits(path)
            )
        entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot read the folder {path}: {error.strerror or error}") from None
    tars = tars_in(path)
    if tars and not any(entry.is_dir() or is_image_name(entry.name) for entry in entries):
        return _simple(str(path), lambda limits: open_shards(tars, limits))
    return Source(
        str(path), lambda split, limits: open_folder(path, split, limits), lambda: folder_splits(path)
    )


def _pack(path: Path, split: str | None, limits: ImageLimits) -> ImageDataset:
    dataset = open_pack(path, split, limits)
    assert dataset is not None, "None is only for archives given by name"
    return dataset


def _file(path: Path) -> Source:
    """A single file: by its first bytes, then by its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    ending = extension(path.name)
    if is_image_name(path.name):
        return _simple(str(path), lambda limits: _images([path], path.parent, f"image {path}", limits))
    if head[:4] == b"PK\x03\x04" or ending == ".zip" or zipfile.is_zipfile(path):
        return _simple(str(path), lambda limits: open_zip(path, limits))
    if is_tar_name(path.name) or _is_tar(path, head):
        return _tars([path])
    if head[:4] == b"PAR1" or ending in LIST_ENDINGS or (head and b"\0" not in head):
        return Source(
            str(path), lambda split, limits: open_list(path, split, limits), lambda: list_splits(path)
        )
    raise DataError(
        f"{path} is not recognised as an image, a list, a tar or a zip; "
        f"it begins with {head[:8]!r}" + ("" if head else " (it is empty)")
    )


def _is_tar(path: Path, head: bytes) -> bool:
    try:
        return head[257:262] == b"ustar" or (head[:2] == b"\x1f\x8b" and tarfile.is_tarfile(path))
    except (OSError, EOFError):
        return False


def _tars(paths: list[Path]) -> Source:
    """Archives by name; a manifest beside them says which members are images and what they show."""
    folder = paths[0].parent
    text = ", ".join(map(str, paths))
    if not (has_manifest(folder) and all(path.parent == folder for path in paths)):
        return _simple(text, lambda limits: open_shards(paths, limits))

    def open_it(split: str | None, limits: ImageLimits) -> ImageDataset:
        return open_pack(folder, split, limits, paths) or open_shards(paths, limits)

    return Source(text, open_it, lambda: pack_splits(folder, paths))


def _images(paths: list[Path], root: Path, what: str, limits: ImageLimits, ignored: int = 0) -> FileDataset:
    names = [path.relative_to(root).as_posix() for path in paths]
    labels, classes = folder_labels(names)
    return FileDataset(root, names, describe(what, len(names), labels, ignored), limits, labels, classes)


def _pattern(text: str) -> Source:
    """The sources that a pattern matches; all images of the pattern form one source, so do all tars."""
    matches = [Path(match) for pattern in _braces(text) for match in sorted(_glob(pattern))]
    matches = list(dict.fromkeys(matches))
    if not matches:
        raise DataError(f"nothing matches {text}; {_missing(Path(text))}")
    images = [path for path in matches if path.is_file() and is_image_name(path.name)]
    tars = [path for path in matches if path.is_file() and is_tar_name(path.name)]
    rest = [path for path in matches if path.is_dir() or path.suffix.lower() in (".zip", ".parquet")]
    ignored = len(matches) - len(images) - len(tars) - len(rest)
    sources = []
    if images:
        root = Path(os.path.commonpath([path.parent for path in images]))
        sources.append(
            _simple(text, lambda limits: _images(images, root, f"pattern {text}", limits, ignored))
        )
    if tars:
        sources.append(_tars(tars))
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


def _braces(text: str) -> list[str]:
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
    tails = _braces(text[found.end() :])
    return [text[: found.start()] + a + b for a, b in itertools.product(choices, tails)]


def _at_commas(text: str) -> list[str]:
    """The parts between commas outside braces; the settings of `synthetic:` stay with it."""
    parts: list[str] = []
    for part in re.split(r",(?![^{]*\})", text):
        belongs = parts and parts[-1].startswith(PREFIX) and re.fullmatch(r"\s*\w+=[^/]*", part)
        if belongs:
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return [part for part in parts if part]


def _several(specs: Sequence[Spec]) -> Source:
    if not specs:
        raise DataError("an empty list of data sources; name at least one")
    sources = [_recognise(spec) for spec in specs]
    return sources[0] if len(sources) == 1 else _join(sources, ", ".join(s.text for s in sources))


def _join(sources: Sequence[Source], text: str) -> Source:
    texts = [source.text for source in sources]
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice:
        raise DataError(f"{twice} is listed twice; name each source once")

    def open_them(split: str | None, limits: ImageLimits) -> ImageDataset:
        return JoinedDataset([source.open(split, limits) for source in sources], texts)

    def common() -> tuple[str, ...]:
        each = [source.splits() for source in sources]
        kinds = [{canonical(name) for name in splits} for splits in each]
        return tuple(name for name in each[0] if all(canonical(name) in kind for kind in kinds))

    return Source(text, open_them, common)


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL character
        return False


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
