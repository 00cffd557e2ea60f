"""Sources behind a network that stalls, cuts, lies and fails; and what the cache does about it."""

import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nexus.data.datasets import open_dataset, remote
from nexus.data.datasets.cache import keep_below
from nexus.errors import DataError, ImageError
from tests.data.making import LEVELS, member, png, tar, tars


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache of its own, and little patience."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEXUS_CACHE", str(folder))
    monkeypatch.setattr(remote, "STALL", 0.3)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    monkeypatch.setattr(remote, "ATTEMPTS", 3)
    return folder


class Server:
    """Serves `files`; `tricks[path]` is a list of what goes wrong with the next requests for a path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tricks: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.ranges = True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *words: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *words: object) -> None:
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.stop = threading.Event()
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.lstrip("/").partition("?")[0]
        self.asked[path] += 1
        tricks = self.tricks.get(path, [])
        trick = tricks.pop(0) if tricks else "none"
        data = self.files.get(path)
        if trick.isdigit() or data is None:
            request.send_error(int(trick) if trick.isdigit() else 404)
            return
        if trick == "silent":
            self.stop.wait(5)
            return
        total, status = len(data), 200
        wanted = request.headers.get("Range")
        if wanted and self.ranges:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            data, status = data[first : last + 1], 206
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        request.end_headers()
        if trick in ("half", "stall"):
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            if trick == "stall":
                self.stop.wait(5)
            request.connection.shutdown(socket.SHUT_RDWR)
        elif trick == "drip":
            for byte in data:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                if self.stop.wait(0.05):
                    return
        else:
            request.wfile.write(data)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop.set()
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def shards(server, tmp_path) -> str:
    """Three shards on the server; the pattern that names them."""
    tars(tmp_path)
    server.files = {f"s-{k}.tar": (tmp_path / f"s-{k}.tar").read_bytes() for k in range(3)}
    return f"{server.url}/s-{{0..2}}.tar"


def levels(data) -> list[int]:
    return [data[i].image.getpixel((0, 0))[0] for i in range(len(data))]


def one(server: Server, tmp_path: Path):
    """A list with the URL of one image."""
    server.files["a.png"] = png(0)
    (tmp_path / "list.txt").write_text(f"{server.url}/a.png\n")
    return open_dataset(tmp_path / "list.txt")


def test_shards_come_once_and_are_read_from_the_cache(server, shards):
    data = open_dataset(shards)
    assert levels(data) == LEVELS
    assert data.name(5) == f"s-2.tar/{member(5)}"
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert levels(open_dataset(shards)) == LEVELS
    assert {server.asked[f"s-{k}.tar"] for k in range(3)} == {1}


def test_shards_that_left_the_cache_are_read_in_parts(server, shards, cache, monkeypatch):
    data = open_dataset(shards)
    keep_below(cache / "remote", 0)
    assert levels(data) == LEVELS
    assert sum(server.asked[f"s-{k}.tar"] for k in range(3)) == 3 + 6
    monkeypatch.setenv("NEXUS_CACHE_GB", "0")
    assert levels(open_dataset(shards)) == LEVELS, "the lists are still there, so nothing is downloaded"
    assert sum(server.asked[f"s-{k}.tar"] for k in range(3)) == 3 + 6 + 6
    assert data.header(3) == (24, 16, "L")


def test_a_small_cache_keeps_what_was_used_last(cache, monkeypatch):
    for age in range(5):
        path = cache / "remote" / f"{age}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        remote.touch(path)
        time.sleep(0.01)
    remote.touch(cache / "remote" / "0.bin")
    keep_below(cache / "remote", 250, spare=cache / "remote" / "1.bin")
    assert sorted(path.name for path in (cache / "remote").iterdir()) == ["0.bin", "1.bin"]
    monkeypatch.setenv("NEXUS_CACHE_GB", "many")
    with pytest.raises(DataError, match="NEXUS_CACHE_GB='many' is not a number"):
        open_dataset("https://127.0.0.1:9/x.tar")


def test_the_cache_stays_below_its_limit_while_images_arrive(server, tmp_path, cache, monkeypatch):
    size = len(png(0))
    monkeypatch.setenv("NEXUS_CACHE_GB", str(2.5 * size / 1e9))
    for i in range(6):
        server.files[f"{i}.png"] = png(i)
    (tmp_path / "l.txt").write_text("\n".join(f"{server.url}/{i}.png" for i in range(6)))
    assert levels(open_dataset(tmp_path / "l.txt")) == LEVELS
    left = [path.stat().st_size for path in (cache / "remote").rglob("*.png")]
    assert 1 <= len(left) <= 2
    assert not list((cache / "remote").rglob("*.part")) + list((cache / "remote").rglob("*.lock"))


def test_shards_that_changed_on_the_server_are_noticed(server, shards, cache, tmp_path):
    data = open_dataset(shards)
    keep_below(cache / "remote", 0)
    server.files["s-0.tar"] += bytes(512)
    with pytest.raises(ImageError, match="has changed on the server"):
        data[0]
    server.ranges = False
    with pytest.raises(ImageError, match="does not give parts of files"):
        data[2]


def test_checksums_beside_the_shards(server, shards):
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in server.files.items()}
    sums["s-1.tar"] = "0" * 64
    server.files["SHA256SUMS"] = "".join(f"{value}  {name}\n" for name, value in sums.items()).encode()
    with pytest.raises(DataError, match=r"s-1\.tar: its SHA-256 is .*, not 000000000000"):
        open_dataset(shards)
    assert server.asked["s-1.tar"] == 3


@pytest.mark.parametrize("trick", ["half", "stall", "silent", "500", "503", "429"])
def test_what_passes_is_tried_again(server, tmp_path, trick):
    data = one(server, tmp_path)
    server.tricks["a.png"] = [trick, trick]
    assert levels(data) == LEVELS[:1]
    assert server.asked["a.png"] == 3
    assert levels(data) == LEVELS[:1]
    assert server.asked["a.png"] == 3, "now it is in the cache"


@pytest.mark.parametrize(
    ("trick", "reason", "asked"),
    [
        ("half", r"broke off after \d+ of \d+ bytes \(3 attempts\)", 3),
        ("stall", r"(no answer for 0.3 seconds|timed out) \(3 attempts\)", 3),
        ("silent", r"(no answer for 0.3 seconds|timed out) \(3 attempts\)", 3),
        ("drip", r"only \d+ bytes in \d+ seconds \(3 attempts\)", 3),
        ("500", r"HTTP 500 Internal Server Error \(3 attempts\)", 3),
        ("404", "HTTP 404 Not Found", 1),
        ("403", "HTTP 403 Forbidden", 1),
    ],
)
def test_what_does_not_pass_ends_soon_with_its_reason(server, tmp_path, trick, reason, asked, cache):
    data = one(server, tmp_path)
    server.tricks["a.png"] = [trick] * 9
    began = time.monotonic()
    with pytest.raises(ImageError, match=reason) as caught:
        data[0]
    assert time.monotonic() - began < 5
    assert caught.value.name == f"{server.url}/a.png"
    assert server.asked["a.png"] == asked
    assert not [path for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_half_a_shard_is_a_failure_to_open(server, shards):
    server.tricks["s-1.tar"] = ["half"] * 9
    with pytest.raises(DataError, match=r"cannot fetch http://.*/s-1\.tar: the transfer broke off"):
        open_dataset(shards)


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=r"cannot fetch .*refused \(3 attempts\)"):
        open_dataset(f"http://127.0.0.1:{port}/x.tar")


def test_other_files_behind_a_url(server, tmp_path):
    server.files["a.png"] = png(2)
    (tmp_path / "x").mkdir()
    server.files["b.tar.gz"] = _gzipped(tar(tmp_path))
    assert levels(open_dataset(f"{server.url}/a.png")) == [LEVELS[2]]
    assert levels(open_dataset(f"{server.url}/b.tar.gz")) == LEVELS
    from tests.data.making import zip_file

    server.files["c.zip"] = Path(zip_file(tmp_path)).read_bytes()
    data = open_dataset(f"{server.url}/c.zip?token=1,2")
    assert sorted(levels(data)) == LEVELS
    assert data.description.startswith(f"zip {server.url}/c.zip?token=1,2, 6 images")


def _gzipped(path: str) -> bytes:
    import gzip

    return gzip.compress(Path(path).read_bytes())


def test_web_servers_cannot_list(server):
    with pytest.raises(DataError, match="a web server cannot list its files; name them with braces"):
        open_dataset(f"{server.url}/*.tar")


def test_an_object_store(tmp_path):
    """Through fsspec, with its store in memory: listing, whole files and parts of them."""
    import fsspec

    tars(tmp_path)
    store = fsspec.filesystem("memory")
    for k in range(3):
        store.pipe(f"/bucket/s-{k}.tar", (tmp_path / f"s-{k}.tar").read_bytes())
    data = open_dataset("memory://bucket/s-*.tar")
    assert levels(data) == LEVELS
    keep_below(remote.cache_folder() / "remote", 0)
    assert levels(data) == LEVELS
    store.rm("/bucket/s-0.tar")
    with pytest.raises(ImageError, match=r"its archive memory://bucket/s-0\.tar: no such file"):
        data[0]
    with pytest.raises(DataError, match="nothing matches memory://bucket/x"):
        open_dataset("memory://bucket/x*.tar")


def test_a_store_that_hangs_ends_by_time(tmp_path, monkeypatch):
    import fsspec

    store = fsspec.filesystem("memory")
    monkeypatch.setattr(type(store), "cat_file", lambda *a, **k: time.sleep(3))
    with pytest.raises(remote.RemoteError, match=r"no answer for 0.3 seconds \(3 attempts\)"):
        remote.read_range("memory://bucket/hang.tar", 0, 10)


def test_a_scheme_that_is_not_installed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r'pip install "nexus\[remote\]"'):
        open_dataset("s3://bucket/a.tar")
    with pytest.raises(DataError, match="cannot read nonsense://"):
        open_dataset("nonsense://bucket/a.tar")


def test_two_processes_download_once(server, shards):
    import multiprocessing

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=open_dataset, args=(shards,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert {server.asked[f"s-{k}.tar"] for k in range(3)} == {1}
