"""Released weights by name: cache, download from a server that misbehaves, checksums, offline."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nexus
from nexus.errors import WeightsError
from nexus.models.vision import architecture, build_backbone
from nexus.weights import download, hub, inspect, transfer
from nexus.weights.download import Patience
from nexus.weights.progress import DownloadProgress
from tests.hub_server import Site, serve

NAME = "dinov2_vits14_reg"
FILE = "dinov2_vits14_reg4_pretrain.pth"
PATH = f"dinov2_vits14/{FILE}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with the architecture of the smallest released model with registers, at a small grid."""
    with torch.device("meta"):
        shapes = build_backbone(architecture(NAME, img_size=28)).state_dict()
    path = tmp_path_factory.mktemp("released") / FILE
    tensors = {
        key: (torch.arange(value.numel()) % 1021 + start).to(torch.float16).view(value.shape)
        for start, (key, value) in enumerate(shapes.items())
    }
    torch.save(tensors, path)
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no patience, and the network allowed."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NEXUS_OFFLINE", "0")
    monkeypatch.setattr(hub, "PATIENCE", Patience(timeout=0.5, failures=3, pause=0.01))
    return tmp_path / "cache" / "hub"


@pytest.fixture
def site(weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with serve(Site({PATH: weights})) as site:
        monkeypatch.setenv("NEXUS_HUB_URL", site.url)
        yield site


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


DONE = [FILE, f"{FILE}.lock", f"{FILE}.origin.json"]
DONE = sorted(DONE)


def check_whole(cache: Path, weights: bytes) -> None:
    assert (cache / FILE).read_bytes() == weights
    assert names(cache) == DONE
    origin = json.loads((cache / f"{FILE}.origin.json").read_text())
    assert origin["sha256"] == hashlib.sha256(weights).hexdigest()
    assert origin["size"] == len(weights)


# ---- names and places --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("dinov2_vits14", "dinov2_vits14/dinov2_vits14_pretrain.pth"),
        ("dinov2_vitg14_reg", "dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth"),
    ],
)
def test_the_layout_is_the_official_one(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_HUB_URL", raising=False)
    assert hub.hub_url(name) == f"https://dl.fbaipublicfiles.com/dinov2/{path}"
    monkeypatch.setenv("NEXUS_HUB_URL", "https://mirror.example/a/")
    assert hub.hub_url(name) == f"https://mirror.example/a/{path}"


def test_a_name_downloads_once_and_loads_strictly(site: Site, cache: Path, weights: bytes) -> None:
    model = nexus.load(NAME)
    assert model.config.num_register_tokens == 4
    assert model.config.interpolate_antialias
    expected = torch.load(cache / FILE, weights_only=True)
    assert all(torch.equal(value, expected[key].float()) for key, value in model.state_dict().items())
    check_whole(cache, weights)
    asked = len(site.seen)
    nexus.load(NAME)
    assert len(site.seen) == asked, "the second load asked the server again"


def test_a_file_in_the_cache_has_to_be_what_its_name_says(site: Site, cache: Path, tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    torch.save(build_backbone(architecture("vit_tiny_patch14_reg4", img_size=28)).state_dict(), cache / FILE)
    with pytest.raises(WeightsError, match="embed_dim: file 192, model 384"):
        nexus.load(NAME)
    assert not site.seen


def test_what_torch_hub_downloaded_is_taken(site: Site, cache: Path, tmp_path: Path, weights: bytes) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    assert Path(torch.hub.get_dir()) / "checkpoints" == folder
    (folder / FILE).write_bytes(weights)
    assert hub.released_file(NAME) == folder / FILE
    assert not site.seen


def test_inspecting_a_name_downloads_nothing(site: Site, cache: Path) -> None:
    facts = inspect(NAME)
    assert facts["kind"] == "released model, not on this machine"
    assert facts["address"] == f"{site.url}/{PATH}"
    assert facts["architecture"] == "vit_small_patch14_reg4"
    assert not site.seen
    nexus.load(NAME)
    facts = inspect(NAME)
    assert facts["kind"] == "weights"
    assert facts["downloaded"]["url"] == f"{site.url}/{PATH}"


# ---- a server that misbehaves -------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(site: Site, cache: Path, weights: bytes) -> None:
    site.cut_after = [1_000_000, 2_000_000]
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert site.asked(PATH) == [None, "bytes=1000000-", "bytes=3000000-"]


def test_a_later_process_goes_on_where_the_last_one_gave_up(site: Site, cache: Path, weights: bytes) -> None:
    site.cut_after = [1_500_000, 0, 0, 0]
    with pytest.raises(WeightsError, match=r"3 times in a row; what came is kept"):
        hub.released_file(NAME)
    assert (cache / f"{FILE}.part").stat().st_size == 1_500_000
    assert not (cache / FILE).exists()
    site.cut_after = []
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert site.asked(PATH)[-1] == "bytes=1500000-"


@pytest.mark.parametrize("validator", ["etag", "modified"])
@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_is_fetched_anew(
    site: Site, cache: Path, weights: bytes, validator: str, if_range: bool
) -> None:
    """Also from a server that honours `Range` without looking at `If-Range`."""
    site.etag = None
    setattr(site, validator, "Mon, 01 Jan 2024 00:00:00 GMT" if validator == "modified" else '"one"')
    site.if_range, site.cut_after = if_range, [1_000_000, 0, 0]
    with pytest.raises(WeightsError, match="in a row"):
        hub.released_file(NAME)
    other = bytearray(weights)
    other[1000:2000] = bytes(1000)
    site.files[PATH] = bytes(other)
    setattr(site, validator, "Tue, 02 Jan 2024 00:00:00 GMT" if validator == "modified" else '"two"')
    hub.released_file(NAME)
    check_whole(cache, bytes(other))


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_sure_version_nothing_is_mixed(
    site: Site, cache: Path, weights: bytes, etag: str | None
) -> None:
    site.etag, site.cut_after = etag, [1_000_000]
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert site.asked(PATH) == [None, None]


def test_a_server_that_ignores_range(site: Site, cache: Path, weights: bytes) -> None:
    site.ranges, site.cut_after = False, [1_000_000]
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert site.asked(PATH) == [None, "bytes=1000000-"]


def test_a_server_that_always_begins_anew_and_breaks_off_is_given_up(site: Site, cache: Path) -> None:
    site.ranges, site.cut_after = False, [2_000_000] * 100
    with pytest.raises(WeightsError, match=r"only 2,000,000 of .* in a row"):
        hub.released_file(NAME)
    assert len(site.asked(PATH)) <= 5


def test_a_short_file_is_never_taken(site: Site, cache: Path) -> None:
    site.lie = 100
    with pytest.raises(WeightsError, match=r"bytes came|server has another file"):
        hub.released_file(NAME)
    assert not (cache / FILE).exists()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_file_that_was_cut_at_the_source_is_refused(
    site: Site, cache: Path, weights: bytes, chunked: bool
) -> None:
    """The length agrees, so only the form of the file tells."""
    site.files[PATH], site.chunked = weights[:-500], chunked
    with pytest.raises(WeightsError, match="damaged or incomplete"):
        hub.released_file(NAME)
    assert FILE not in names(cache)
    assert f"{FILE}.part" not in names(cache)


def test_an_answer_in_chunks(site: Site, cache: Path, weights: bytes) -> None:
    site.chunked, site.cut_after = True, [1_000_000]
    hub.released_file(NAME)
    check_whole(cache, weights)


def test_a_web_page_with_status_200_is_no_weight_file(site: Site, cache: Path) -> None:
    site.files[PATH] = b"<!DOCTYPE html><html>please log in</html>"
    with pytest.raises(WeightsError, match="it is a web page"):
        hub.released_file(NAME)
    site.headers = {"Content-Type": "text/html"}
    with pytest.raises(WeightsError, match="sent a web page, not a weight file"):
        hub.released_file(NAME)
    assert FILE not in names(cache)


@pytest.mark.parametrize(
    ("status", "match", "attempts"),
    [
        (404, "answers 404 Not Found: there is no such file there", 1),
        (403, "answers 403 Forbidden: it refuses", 1),
        (407, "your proxy asks for a password", 1),
        (410, "answers 410", 1),
        (500, "answers 500 .* 3 times in a row", 3),
        (503, "answers 503", 3),
        (429, "answers 429", 3),
    ],
)
def test_statuses(site: Site, cache: Path, status: int, match: str, attempts: int) -> None:
    site.status = [status] * 5
    with pytest.raises(WeightsError, match=match):
        hub.released_file(NAME)
    assert len(site.asked(PATH)) == attempts
    assert FILE not in names(cache)


def test_a_server_that_recovers(site: Site, cache: Path, weights: bytes) -> None:
    site.status, site.headers = [503, 500], {"Retry-After": "0"}
    hub.released_file(NAME)
    check_whole(cache, weights)


def test_retry_after_is_obeyed_up_to_a_minute(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    site.status, site.headers = [429, 503], {"Retry-After": "7000"}
    hub.released_file(NAME)
    assert [seconds for seconds in waited if seconds > 1] == [60, 60]


def test_pauses_grow(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)

    def fail() -> None:
        raise transfer.Broken("no")

    with pytest.raises(WeightsError, match="7 times in a row"):
        download.persist("x", fail, None, Patience(failures=7))
    assert waited == [1, 2, 4, 8, 16, 30]


def test_redirects_are_followed_with_the_range(site: Site, cache: Path, weights: bytes) -> None:
    with serve(Site({"elsewhere.pth": weights}, cut_after=[1_000_000])) as other:
        site.redirect[PATH] = f"{other.url}/elsewhere.pth"
        hub.released_file(NAME)
        check_whole(cache, weights)
        assert other.asked("elsewhere.pth") == [None, "bytes=1000000-"]


@pytest.mark.parametrize("target", ["/" + PATH, "file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirects_in_a_circle_or_to_other_schemes(site: Site, cache: Path, target: str) -> None:
    site.redirect[PATH] = target
    with pytest.raises(WeightsError, match=r"answers 302|sends on to|302 .*infinite loop"):
        hub.released_file(NAME)


def test_no_redirect_from_an_encrypted_address_to_an_open_one() -> None:
    from urllib.request import Request

    handler = transfer._CarefulRedirects()
    with pytest.raises(WeightsError, match="not encrypted"):
        handler.redirect_request(Request("https://a.example/x"), None, 302, "", {}, "http://a.example/x")
    followed = handler.redirect_request(
        Request("https://a.example/x"), None, 302, "", {}, "https://b.example/y"
    )
    assert followed.full_url == "https://b.example/y"


def test_a_server_that_hangs(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", Patience(timeout=0.1, failures=2, pause=0.01))
    site.hang = 1.0
    started = time.monotonic()
    with pytest.raises(WeightsError, match="the server does not answer, 2 times in a row"):
        hub.released_file(NAME)
    assert time.monotonic() - started < 3


def test_a_server_that_falls_silent_in_the_middle(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PATIENCE", Patience(timeout=0.1, failures=2, pause=0.01))
    site.pause = 1.0
    with pytest.raises(
        WeightsError, match=r"(stopped sending|not answer), 2 times in a row; what came is kept"
    ):
        hub.released_file(NAME)


def test_nobody_listens(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("NEXUS_HUB_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(WeightsError, match=r"no connection \(.*refused\), 3 times in a row"):
        hub.released_file(NAME)


def test_the_proxy_of_the_environment_is_used(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for the whole address, so the server sees it as the path."""
    base = "http://weights.invalid/d"
    with serve(Site({f"{base}/{PATH}": weights})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("NEXUS_HUB_URL", base)
        hub.released_file(NAME)
        check_whole(cache, weights)


# ---- checksums ---------------------------------------------------------------------------------------


def sums(weights: bytes, style: str, right: bool) -> dict[str, bytes]:
    value = hashlib.sha256(weights if right else b"other").hexdigest()
    return {
        "list": {"SHA256SUMS": f"{'0' * 64}  another.pth\n{value}  {PATH}\n".encode()},
        "list, binary mode": {"SHA256SUMS": f"{value} *./{PATH}\n".encode()},
        "list of names": {"SHA256SUMS": f"{value.upper()}  {FILE}\n".encode()},
        "beside": {f"{PATH}.sha256": f"{value}\n".encode()},
        "beside, with name": {f"{PATH}.sha256": f"{value}  {FILE}\n".encode()},
    }[style]


STYLES = ["list", "list, binary mode", "list of names", "beside", "beside, with name"]


@pytest.mark.parametrize("style", STYLES)
def test_a_published_sum_is_compared(site: Site, cache: Path, weights: bytes, style: str) -> None:
    site.files |= sums(weights, style, right=False)
    with pytest.raises(WeightsError, match=r"is published for it\. It was removed"):
        hub.released_file(NAME)
    assert names(cache) == [f"{FILE}.lock", f"{FILE}.part.json"]
    site.files |= sums(weights, style, right=True)
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert json.loads((cache / f"{FILE}.origin.json").read_text())["published"] is True


def test_without_a_published_sum_the_found_one_is_recorded(
    site: Site, cache: Path, weights: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("nexus"), "propagate", True)
    caplog.set_level(logging.INFO)
    site.files["SHA256SUMS"] = b"<html>everything is a page here</html>"
    hub.released_file(NAME)
    check_whole(cache, weights)
    assert json.loads((cache / f"{FILE}.origin.json").read_text())["published"] is False
    assert "recorded; none is published there" in caplog.text


def test_a_list_that_cannot_be_read_is_not_the_same_as_none(site: Site, cache: Path) -> None:
    site.hang = 0.7
    with pytest.raises(WeightsError, match=r"SHA256SUMS: the server does not answer"):
        hub.released_file(NAME)


def test_a_file_that_changed_in_the_cache_is_refused(site: Site, cache: Path, weights: bytes) -> None:
    hub.released_file(NAME)
    data = bytearray(weights)
    data[-3_000_000] ^= 1
    (cache / FILE).write_bytes(data)
    with pytest.raises(WeightsError, match=r"its sha256 has changed\. Remove the file"):
        nexus.load(NAME)


# ---- several at once ----------------------------------------------------------------------------------


def _start(site: Site) -> Any:
    """A process of its own that downloads."""
    child = multiprocessing.get_context("fork").Process(target=hub.released_file, args=(NAME,))
    child.start()
    return child


def test_two_processes_at_once(site: Site, cache: Path, weights: bytes) -> None:
    site.pause = 0.001
    children = [_start(site), _start(site)]
    for child in children:
        child.join(timeout=100)
    assert [child.exitcode for child in children] == [0, 0]
    check_whole(cache, weights)
    assert site.asked(PATH) == [None], "the second process waits and takes the file of the first"


def test_without_locks_each_has_its_own_part(
    site: Site, cache: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    site.cut_after = [1_000_000]
    hub.released_file(NAME)
    check_whole(cache, weights)


def test_a_killed_download_is_gone_on_with(site: Site, cache: Path, weights: bytes) -> None:
    site.pause = 0.02
    child = _start(site)
    part = cache / f"{FILE}.part"
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert child.is_alive(), "it ended before it could be killed"
        time.sleep(0.01)
    child.kill()
    child.join()
    assert FILE not in names(cache)
    site.pause = 0
    hub.released_file(NAME)
    check_whole(cache, weights)
    first, second = site.asked(PATH)
    assert first is None
    assert second is not None
    assert int(second[6:-1]) > 1_000_000


# ---- the disk ------------------------------------------------------------------------------------------


def test_a_full_disk_is_noticed_before_anything_is_fetched(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = transfer.shutil.disk_usage(Path.home())
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(WeightsError, match=r"MB are missing \(0 MB are free\).*NEXUS_CACHE"):
        hub.released_file(NAME)
    assert not (cache / f"{FILE}.part").exists()


def test_a_cache_that_cannot_be_written(site: Site, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match=r"cannot be written to .*set NEXUS_CACHE"):
        hub.released_file(NAME)


def test_a_disk_that_fills_up_on_the_way(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"No space left on device \(.* MB are free\)"):
        hub.released_file(NAME)
    assert FILE not in names(cache)


# ---- offline and file:// -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "forbidden"),
    [
        ({"NEXUS_OFFLINE": "1"}, True),
        ({"NEXUS_OFFLINE": "true"}, True),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "1", "NEXUS_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({}, False),
    ],
)
def test_what_switches_the_network_off(
    variables: dict[str, str], forbidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NEXUS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.offline() is forbidden


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening any socket, or asking for the address of a name, fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)


def test_offline_opens_no_socket(cache: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    monkeypatch.delenv("NEXUS_HUB_URL", raising=False)
    with pytest.raises(AssertionError, match="a socket was opened"):
        hub.released_file(NAME)  # this is what would happen
    monkeypatch.setenv("NEXUS_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"network is switched off .* put it at .*reg4_pretrain\.pth"):
        nexus.load(NAME)
    assert inspect(NAME)["kind"] == "released model, not on this machine"


def test_a_folder_serves_as_an_address_without_network(
    weights: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    base = tmp_path / "with space"
    (base / PATH).parent.mkdir(parents=True)
    monkeypatch.setenv("NEXUS_OFFLINE", "1")
    monkeypatch.setenv("NEXUS_HUB_URL", base.as_uri())
    with pytest.raises(WeightsError, match="there is no such file"):
        hub.released_file(NAME)
    (base / PATH).write_bytes(weights)
    (base / "SHA256SUMS").write_text(f"{hashlib.sha256(weights).hexdigest()}  {PATH}\n")
    assert nexus.load(NAME).config.num_register_tokens == 4
    check_whole(cache, weights)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("ftp://a/b", "no address of a file"),
        ("mirror.example/dinov2", "no address of a file"),
        ("https:///x", "no address of a file"),
        ("file://server/share", "three slashes"),
    ],
)
def test_addresses_that_are_none(cache: Path, monkeypatch: pytest.MonkeyPatch, url: str, match: str) -> None:
    monkeypatch.setenv("NEXUS_HUB_URL", url)
    with pytest.raises(WeightsError, match=match):
        hub.released_file(NAME)


# ---- progress -----------------------------------------------------------------------------------------


def test_progress_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("nexus.weights.progress"), "info", lambda form, text: said.append(text)
    )
    clock = iter([0.0, 5.0, 10.0, 15.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with DownloadProgress("x.pth") as progress:
        for done in (0, 50, 100, 150, 200):
            progress.report(done * 1_000_000, 600_000_000)
    assert said == [
        "x.pth: 100 MB of 600 MB, 10.0 MB/s, 0:00:50 left",
        "x.pth: 200 MB of 600 MB, 10.0 MB/s, 0:00:40 left",
    ]


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with DownloadProgress("x.pth") as progress:
        progress.report(1_000_000, 2_000_000)
    with DownloadProgress("y.pth") as progress:
        progress.report(1_000_000, None)
