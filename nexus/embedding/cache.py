"""Frozen features that were computed once are not computed again, by whichever evaluation.

::

    ~/.cache/nexus/features/          `$NEXUS_CACHE` moves it, `--cache DIR` names another place
      KEY.l4/                         complete: CLS of the last 4 blocks, mean patch
      KEY.l1.flip/                    the same images mirrored, last block only
      KEY.l1.patches/                 with all patch tokens, in float16
      KEY.l4.partial/                 on its way; a kill costs two seconds of work
      contents/                       digests of data sets, by the state of their files
      locks/

`KEY` is a digest of the weights, of the images (not of their names: a copied or renamed folder is the same),
of how they are shown and computed. A wider table serves whoever needs fewer layers; whoever needs a table
that another process is computing waits for it. When all tables together are larger than the limit
(`$NEXUS_FEATURES_GB`, 20), those that were used longest ago go. A cache that cannot be used is no error:
features are computed as without it, and a line says why.
"""

import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nexus import checkpoint
from nexus.data.contents import content_digest, files_state
from nexus.data.datasets import ImageDataset
from nexus.data.datasets.cache import cache_folder, digest
from nexus.embedding.fingerprint import computation
from nexus.embedding.locks import is_locked, locked
from nexus.embedding.partial import STATE
from nexus.embedding.shared import FeatureTable, Table
from nexus.errors import ConfigError, RunError
from nexus.features import Progress, View
from nexus.features.extraction import normalization_of, place_on
from nexus.features.outputs import depth_of
from nexus.features.view import NATIVE, frame_size

log = logging.getLogger(__name__)

OFF = "off"
DEFAULT_GIGABYTES = 20.0
PARTIAL, REMOVED = ".partial", ".removed-"
_SPARE_BYTES = 1 << 30
"""What is left free on the disk."""


@dataclass(frozen=True)
class FeatureCache:
    """Tables of features in `folder`, of at most `limit` bytes together."""

    folder: Path
    limit: int

    @classmethod
    def at(cls, place: str | Path | None) -> "FeatureCache | None":
        """The user's own where `place` is left out, the folder `place`, or None for `off`."""
        if place == OFF:
            return None
        text = os.environ.get("NEXUS_FEATURES_GB", "")
        try:
            gigabytes = float(text) if text.strip() else DEFAULT_GIGABYTES
        except ValueError:
            raise ConfigError(
                f"NEXUS_FEATURES_GB={text!r} is no number; write gigabytes, such as 20"
            ) from None
        folder = Path(place).expanduser() if place else cache_folder() / "features"
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"cache={folder} is a file; name a folder, or `off`")
        return cls(folder, int(gigabytes * 1e9))

    def of(self, backbone: nn.Module, view: View) -> "CachedFeatures":
        """The tables of one backbone under one view; its weights must not change afterwards."""
        place_on(backbone, view.device)
        made_of = computation(backbone, view, normalization_of(backbone, view))
        if view.size is None:
            made_of["size"] = frame_size(backbone, view)[0]
        return CachedFeatures(self, backbone, view, made_of)

    def evict(self, spare: str) -> tuple[int, int]:
        """Remove what was used longest ago until the limit is kept; `spare` stays. Tables and bytes left."""
        found = []
        for path in self.folder.iterdir():
            if path.name.startswith(REMOVED):
                shutil.rmtree(path, ignore_errors=True)
            elif ".l" in path.name and path.is_dir():
                with suppress(OSError):
                    found.append(((path / STATE).stat().st_mtime, _bytes_in(path), path))
        count, total = len(found), sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            if path.name == spare or is_locked(self.lock(path.name.removesuffix(PARTIAL))):
                continue
            remove(path)
            count, total = count - 1, total - size
        return count, total

    def lock(self, name: str) -> Path:
        """The file whose lock the process holds that computes the table `name`."""
        return self.folder / "locks" / name


@dataclass(frozen=True)
class CachedFeatures:
    """Features of one backbone under one view, from the cache or computed into it."""

    cache: FeatureCache
    backbone: Any
    view: View
    made_of: dict[str, Any]

    def table(
        self,
        dataset: Any,
        *,
        layers: int = 1,
        patches: bool = False,
        flip: bool = False,
        progress: Progress | None = None,
    ) -> Table | None:
        """The features of a data set, with its patch tokens if asked for; None where they cannot be kept.

        They are those of `nexus.features.extract`, bit for bit. Raises `DataError` without a readable image.
        """
        if not isinstance(dataset, ImageDataset) or (patches and self.view.size == NATIVE):
            return None
        layers = min(layers, depth_of(self.backbone))
        wanted = FeatureTable(self.backbone, dataset, self.view, self.made_of, layers, patches, flip)
        try:
            return self._table(wanted, progress)
        except OSError as error:
            reason = error.strerror or error
            log.warning("the feature cache %s is not used: %s", self.cache.folder, reason)
            return None

    def _table(self, wanted: FeatureTable, progress: Progress | None) -> Table | None:
        folder, images = self.cache.folder, len(wanted.dataset)
        folder.mkdir(parents=True, exist_ok=True)
        content = content_digest(wanted.dataset, folder / "contents", progress)
        key = digest(json.dumps({**self.made_of, "images": content}, sort_keys=True))
        if (found := self._kept(key, wanted)) is not None:
            log.info("features of %s images from the cache", f"{images:,}")
            if progress is not None:
                progress(images, images)
            return found
        if self._too_large(wanted.bytes()):
            return None
        name = f"{key}.l{wanted.layers}{wanted.kind}"
        with locked(self.cache.lock(name), "computing the same features"):
            return self._kept(key, wanted) or self._computed(folder / name, wanted, progress)

    def _kept(self, key: str, wanted: FeatureTable) -> Table | None:
        """The narrowest table that is complete and wide enough."""
        for layers in range(wanted.layers, depth_of(self.backbone) + 1):
            path = self.cache.folder / f"{key}.l{layers}{wanted.kind}"
            if (path / STATE).is_file():
                try:
                    found = wanted.read(path)
                    os.utime(path / STATE)  # used now
                    return found
                except FileNotFoundError:  # another process has just removed it
                    continue
                except (ValueError, KeyError) as error:
                    log.warning("%s is damaged (%s); it is computed again", path, error)
                    remove(path)
        return None

    def _computed(self, place: Path, wanted: FeatureTable, progress: Progress | None) -> Table:
        partial = place.with_name(place.name + PARTIAL)
        state = files_state(wanted.dataset)
        try:
            wanted.compute(partial, progress)
        except RunError:  # not what an earlier process said it was
            remove(partial)
            wanted.compute(partial, progress)
        if files_state(wanted.dataset) != state:
            log.warning("images changed while they were looked at, so their features are not kept")
            found = wanted.read(partial)
            remove(partial)
            return found
        os.replace(partial, place)
        checkpoint.sync_folder(place.parent)
        count, total = self.cache.evict(place.name)
        here, all_of_them, limit = map(human_bytes, (_bytes_in(place), total, self.cache.limit))
        tables = f"{count} table{'s' * (count > 1)}"
        log.info("features kept: %s in %s (%s, %s of %s)", here, place.parent, tables, all_of_them, limit)
        return wanted.read(place)

    def _too_large(self, wanted: int) -> bool:
        """Whether so many bytes do not fit into the cache, or onto the disk; says so."""
        free = shutil.disk_usage(self.cache.folder).free - _SPARE_BYTES
        if wanted <= min(self.cache.limit, free):
            return False
        log.info(
            "features are not kept: they take %s, the cache may have %s and the disk has %s to spare",
            *map(human_bytes, (wanted, self.cache.limit, max(0, free))),
        )
        return True


def remove(folder: Path) -> None:
    """Remove a table; nobody sees half of it, and who has opened it may go on reading."""
    away = folder.with_name(f"{REMOVED}{os.getpid()}-{folder.name}")
    with suppress(OSError):
        os.replace(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def human_bytes(count: int) -> str:
    """`34 MB`."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 10 or units[0] == "bytes" else f"{value:.1f} {units[0]}"


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
