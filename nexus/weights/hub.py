"""Released weights by name: from this machine, else downloaded from the official address or a mirror.

| environment variable      | meaning                                                                  |
|---------------------------|--------------------------------------------------------------------------|
| `NEXUS_HUB_URL`           | where the files lie, by http, https or file; default: the official place |
| `NEXUS_CACHE`             | files are kept in `$NEXUS_CACHE/hub`; default: `~/.cache/nexus/hub`      |
| `NEXUS_OFFLINE`           | 1: never touch the network; 0: do                                        |
| `HF_HUB_OFFLINE`          | counts where `NEXUS_OFFLINE` is not set                                  |
| `https_proxy`, `no_proxy` | as everywhere                                                            |

`HF_HUB_OFFLINE` is heard because whoever sets it says that this machine has no network, and would rather
have one clear sentence at once than wait for time-outs.
"""

import logging
import os
import re
import urllib.parse
from pathlib import Path

from nexus.errors import WeightsError
from nexus.weights.download import PATIENCE, download, persist, read_origin, refuse_changed
from nexus.weights.read import check_form
from nexus.weights.transfer import Missing, opened, read_block

log = logging.getLogger(__name__)

OFFICIAL = "https://dl.fbaipublicfiles.com/dinov2"
"""Where the authors publish their files; below it `dinov2_vits14/dinov2_vits14_pretrain.pth` and so on."""

_NAME = re.compile(r"(dinov2_vit[sblg]14)(_reg)?")
_LONGEST_LIST = 1 << 20


def is_hub_name(name: str) -> bool:
    """Whether a name is that of a released model, such as `dinov2_vitb14_reg`."""
    return _NAME.fullmatch(name) is not None


def official_path(name: str) -> str:
    """Where a released file lies below the base address."""
    found = _NAME.fullmatch(name)
    assert found is not None
    return f"{found[1]}/{found[1]}{'_reg4' if found[2] else ''}_pretrain.pth"


def hub_folder() -> Path:
    """Where released weights are kept: `$NEXUS_CACHE/hub`, or `~/.cache/nexus/hub`."""
    cache = os.environ.get("NEXUS_CACHE")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "nexus") / "hub"


def hub_url(name: str) -> str:
    """The address of a released file."""
    base = os.environ.get("NEXUS_HUB_URL", "").strip() or OFFICIAL
    return f"{base.rstrip('/')}/{official_path(name)}"


def offline() -> bool:
    """Whether the network must not be touched."""
    chosen = os.environ.get("NEXUS_OFFLINE") or os.environ.get("HF_HUB_OFFLINE") or ""
    return chosen.strip().lower() not in ("", "0", "false", "no", "off")


def cached_file(name: str) -> Path | None:
    """The file of a released model on this machine: nexus's, else the one that `torch.hub` downloaded."""
    file_name = official_path(name).rpartition("/")[2]
    places = hub_folder(), _torch_folder()
    return next((place / file_name for place in places if (place / file_name).is_file()), None)


def released_file(name: str) -> Path:
    """The file of a released model, downloaded if it is not on this machine.

    A file that nexus downloaded is compared with its sha256 first, once per process. Raises `WeightsError`
    when there is no file, no network, no space, or another file than the one that is published.
    """
    path = cached_file(name)
    if path is not None:
        if path.parent != hub_folder():
            log.info("%s: taking the file that torch.hub downloaded, %s", name, path)
        refuse_changed(path)
        return path
    url, target = hub_url(name), hub_folder() / official_path(name).rpartition("/")[2]
    _refuse_address(name, url, target)
    sha256 = _published_sum(url, official_path(name))
    log.info("downloading %s from %s", name, url)
    download(url, target, sha256=sha256, check=check_form, patience=PATIENCE)
    origin = read_origin(target) or {}
    said = "as published" if sha256 else "recorded; none is published there"
    log.info("%s is at %s (sha256 %s, %s)", name, target, origin.get("sha256"), said)
    return target


def _torch_folder() -> Path:
    """Where `torch.hub` keeps checkpoints."""
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(cache) / "torch").expanduser() / "hub" / "checkpoints"


def _refuse_address(name: str, url: str, target: Path) -> None:
    """Addresses that are none, and those that would need the network where it is forbidden."""
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme not in ("http", "https", "file") or (parsed.scheme != "file" and not parsed.netloc):
        raise WeightsError(
            f"NEXUS_HUB_URL leads to {url}, which is no address of a file; it begins with https://, http:// "
            "or file:///"
        )
    if parsed.scheme == "file" and parsed.netloc not in ("", "localhost"):
        raise WeightsError(f"{url} names another machine; file:// takes three slashes: file:///folder")
    if offline() and parsed.scheme != "file":
        raise WeightsError(
            f"{name}: its weights are not on this machine, and the network is switched off (NEXUS_OFFLINE "
            f"or HF_HUB_OFFLINE). Fetch {url} elsewhere and put it at {target}; NEXUS_HUB_URL may name a "
            "folder with the official layout: file:///FOLDER"
        )


# -- checksums ---------------------------------------------------------------------------------------


def _published_sum(url: str, path: str) -> str | None:
    """The sha256 that the address publishes: in `SHA256SUMS` at its base, else in `FILE.sha256`."""
    base = url.removesuffix(path)
    for text in (_small_text(f"{base}SHA256SUMS"), _small_text(f"{url}.sha256")):
        for line in text.splitlines():
            found = re.fullmatch(r"\s*([0-9a-fA-F]{64})(?:\s+\*?(.+?))?\s*", line)
            if found and (found[2] or path).removeprefix("./") in (path, path.rpartition("/")[2]):
                return found[1].lower()
    return None


def _small_text(url: str) -> str:
    """A short text; empty where there is none."""

    def read() -> str:
        data = b""
        with opened(url, PATIENCE.timeout) as response:
            while len(data) <= _LONGEST_LIST and (block := read_block(response)):
                data += block
        return data.decode("utf-8", "replace")

    try:
        return persist(url, read, None, PATIENCE)
    except Missing:
        return ""
