"""Bytes from elsewhere: HTTP(S) with the standard library, `s3://`, `gs://` and the like through fsspec.

Nothing here waits for ever. Every transfer runs in a thread of its own and is given up when it makes no
progress for `STALL` seconds; what may get better (timeouts, resets, 5xx, half a file) is tried `ATTEMPTS`
times with growing pauses; what will not (404, 403) fails at once. Downloads appear in the cache complete or
not at all, and the cache is kept below `$NEXUS_CACHE_GB`.
"""

import contextlib
import hashlib
import http.client
import os
import queue
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import IO, Any, TypeVar

from nexus.data.alive import sign_of_life
from nexus.data.datasets.cache import cache_folder, cache_limit, digest, keep_below, touch, write_at_once
from nexus.errors import DataError

T = TypeVar("T")

STALL = 30.0
"""Seconds without any progress after which a transfer is given up."""
ATTEMPTS = 4
"""How often a transfer is tried."""
PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long, at most `LONGEST_PAUSE`."""
LONGEST_PAUSE = 10.0

_CHUNK = 1 << 20
_SLOWEST = 1000  # bytes per second on average: slower than this is a stall in disguise
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LOCK_PAUSE = 0.1  # seconds between two looks whether another process has finished its download
_PRUNE_EVERY = 0.02  # of the cache's limit

Beat = Callable[[], None]


class RemoteError(Exception):
    """A transfer that failed for good; the text is a short reason."""


class _Passing(Exception):
    """A failure that may not happen again."""


def fetch(url: str, checksum: str | None = None) -> Path:
    """The file at `url`, from the cache or downloaded into it. `RemoteError` says why not.

    A file in the cache is not asked for again. `checksum` is the file's SHA-256 in hexadecimal digits.
    """
    path = cached(url)
    if path.is_file():
        touch(path)
        return path
    with _alone(path):
        if not path.is_file():
            try:
                _retry(lambda: _download(url, path, checksum))
            except OSError as error:
                raise DataError(
                    f"cannot keep {url} in {path.parent}: {error.strerror or error}; make room there, or set "
                    "NEXUS_CACHE to another folder"
                ) from None
            _prune(path)
    return path


def cached(url: str) -> Path:
    """Where the cache keeps the file at `url`, if it has it: the name tells its ending."""
    base = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    key = digest(url)
    return cache_folder() / "remote" / key[:2] / f"{key[2:]}-{base[-80:]}"


def read_range(url: str, start: int, size: int, total: int | None = None) -> bytes:
    """`size` bytes from `start` on. `total` is what the file's size was, to notice another file."""
    return _retry(lambda: _bounded(lambda beat: _range(url, start, size, total, beat)))


def expand(url: str) -> list[str]:
    """The URLs that a `*` pattern matches, sorted; object stores can list, web servers cannot."""
    if urllib.parse.urlsplit(url).scheme in ("http", "https"):
        raise DataError(
            f"{url}: a web server cannot list its files; name them with braces, as in shard-{{000..011}}.tar"
        )
    scheme = url.partition("://")[0]

    def work(beat: Beat) -> list[str]:
        system, path = _system(url)
        return [
            f"{scheme}://{str(match).split('://')[-1].lstrip('/')}" if scheme != "file" else f"file://{match}"
            for match in sorted(system.glob(path))
        ]

    try:
        return _retry(lambda: _bounded(work))
    except RemoteError as error:
        raise DataError(f"cannot list {url}: {error}") from None


def _retry(work: Callable[[], T]) -> T:
    for attempt in range(ATTEMPTS):
        if attempt:
            pause = min(PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.75, 1.25))
        sign_of_life()
        try:
            return work()
        except _Passing as error:
            last = error
    raise RemoteError(f"{last} ({ATTEMPTS} attempts)")


def _bounded(work: Callable[[Beat], T]) -> T:
    """Run `work` in a thread; give up when it has not called `beat` for `STALL` seconds."""
    beats: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            beats.put(("done", work(lambda: beats.put(("beat", None)))))
        except BaseException as error:
            beats.put(("failed", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            kind, value = beats.get(timeout=STALL)
        except queue.Empty:
            raise _Passing(f"no answer for {STALL:g} seconds") from None
        if kind == "done":
            return value
        if kind == "failed":
            raise _judged(value)
        sign_of_life()


def _judged(error: BaseException) -> BaseException:
    """Whether a failure may pass."""
    if isinstance(error, (_Passing, RemoteError, DataError)):
        return error
    if isinstance(error, urllib.error.HTTPError):
        text = f"HTTP {error.code} {error.reason}"
        error.close()
        return _Passing(text) if error.code in _PASSING else RemoteError(text)
    if isinstance(error, FileNotFoundError):
        return RemoteError("no such file")
    if isinstance(error, PermissionError):
        return RemoteError("permission denied")
    if isinstance(error, (OSError, http.client.HTTPException, TimeoutError)):
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        return _Passing(" ".join(str(reason).split()) or type(error).__name__)
    return RemoteError(" ".join(str(error).split()) or type(error).__name__)


def _download(url: str, path: Path, checksum: str | None) -> None:
    def write(file: BufferedWriter) -> None:
        total = hashlib.sha256()

        def work(beat: Beat) -> None:
            for chunk in _chunks(url, beat):
                file.write(chunk)
                total.update(chunk)

        _bounded(work)
        if checksum is not None and total.hexdigest() != checksum.lower():
            raise _Passing(f"its SHA-256 is {total.hexdigest()[:12]}..., not {checksum[:12]}...")

    write_at_once(path, write)


def _chunks(url: str, beat: Beat) -> Iterator[bytes]:
    """The whole file in pieces; half a file is a `_Passing`."""
    if not url.startswith(("http://", "https://")):
        system, path = _system(url)
        with system.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                beat()
                yield chunk
        return
    with _request(url) as answer:
        yield from _body(answer, answer.headers.get("Content-Length"), beat)


def _range(url: str, start: int, size: int, total: int | None, beat: Beat) -> bytes:
    if not url.startswith(("http://", "https://")):
        system, path = _system(url)
        data = system.cat_file(path, start=start, end=start + size)
        if len(data) < size:
            raise RemoteError("its archive has been cut short since it was indexed")
        return data
    with _request(url, {"Range": f"bytes={start}-{start + size - 1}"}) as answer:
        if answer.status != 206:
            raise RemoteError("the server does not give parts of files (no HTTP ranges)")
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if total is not None and length.isdigit() and int(length) != total:
            raise RemoteError("its archive has changed on the server since it was indexed")
        return b"".join(_body(answer, str(size), beat))


def _request(url: str, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "nexus", **(headers or {})})
    return urllib.request.urlopen(request, timeout=STALL)


def _body(answer: Any, length: str | None, beat: Beat) -> Iterator[bytes]:
    """What a server sends, as long as it is neither too little nor too slow."""
    got, began = 0, time.monotonic()
    while chunk := answer.read1(_CHUNK):
        got += len(chunk)
        passed = time.monotonic() - began
        if passed > STALL and got < _SLOWEST * passed:
            raise _Passing(f"only {got:,} bytes in {passed:.0f} seconds")
        beat()
        yield chunk
    if length is not None and length.isdigit() and got != int(length):
        raise _Passing(f"the transfer broke off after {got:,} of {int(length):,} bytes")


def _system(url: str) -> tuple[Any, str]:
    """The fsspec file system of this process and the path in it."""
    from nexus.data.datasets.extras import optional

    fsspec = optional("fsspec", "remote", f"reading {url.partition('://')[0]}://")
    try:
        system, path = fsspec.core.url_to_fs(url)
        if getattr(system, "_pid", os.getpid()) != os.getpid():  # a fork's copy of the parent's connections
            type(system).clear_instance_cache()
            system, path = fsspec.core.url_to_fs(url)
        return system, path
    except (ImportError, ValueError) as error:
        raise DataError(
            f'cannot read {url}: {error}; pip install "nexus[remote]" brings S3 and Google storage'
        ) from None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of this machine download a file while the others wait for it."""
    if os.name != "posix":  # Windows: a file may be downloaded twice
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with open(lock, "w") as file:
        while not _locked(file):  # let go by the system when its holder dies
            sign_of_life()
            time.sleep(_LOCK_PAUSE)
        yield
    with contextlib.suppress(OSError):
        lock.unlink()


def _locked(file: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_written = 0


def _prune(path: Path) -> None:
    """Keep the cache below its limit; looks only after a good part of it was written."""
    global _written
    limit = cache_limit()
    _written += path.stat().st_size
    if _written > _PRUNE_EVERY * limit:
        _written = 0
        keep_below(cache_folder() / "remote", limit, spare=path)
