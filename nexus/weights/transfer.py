"""One attempt to bring a file from an address to the disk, going on where an earlier attempt was cut off.

The bytes go to `FILE.part`; `FILE.part.json` says of which version of the file they are. An attempt goes on
only if the server says that it still has that version (`If-Range`, and its answer is checked as well);
otherwise it begins anew, so that two versions are never mixed.
"""

import email.utils
import errno
import http.client
import json
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus import __version__
from nexus.checkpoint import write_atomic
from nexus.errors import WeightsError

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where the server says it, how many there will be."""

_BLOCK = 1 << 20
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_NETWORK = (OSError, http.client.HTTPException)


class Broken(Exception):
    """An attempt failed in a way that another one may not; `pause` is the wait that the server asked for."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


@dataclass(frozen=True)
class _Version:
    """Which file a `.part` is a part of."""

    url: str
    validator: str | None = None
    """A strong ETag, else the time of the last change; `None` where the server tells neither."""
    total: int | None = None


def attempt(url: str, part: Path, timeout: float, report: Report) -> None:
    """Bring `part` up to the whole file.

    Raises `Broken` when it is worth another attempt, `WeightsError` when not, `OSError` as the disk does.
    """
    version, size = _kept(part, url)
    if version.total is not None and size == version.total:
        return
    headers = {"Range": f"bytes={size}-", "If-Range": str(version.validator)} if size else {}
    try:
        with opened(url, timeout, headers) as response:
            start, new = _place(response, url, version, size)
            _copy(response, part, start, new, report)
    except _RangeRefused:
        part.unlink(missing_ok=True)
        raise Broken("the server has another file now") from None


@contextmanager
def opened(url: str, timeout: float, headers: dict[str, str] | None = None) -> Iterator[Any]:
    """An answer with status 200 or 206, or the contents of a `file://` address."""
    request = urllib.request.Request(url, headers={"User-Agent": f"nexus/{__version__}", **(headers or {})})
    try:
        response = _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error) from None
    except _NETWORK as error:
        raise _unreachable(url, error) from None
    with response:
        yield response


def read_block(response: Any) -> bytes:
    """The next bytes of an answer; a connection that breaks is `Broken`."""
    try:
        return response.read1(_BLOCK)
    except TimeoutError:
        raise Broken("the server stopped sending") from None
    except _NETWORK as error:
        raise Broken(f"the connection broke ({str(error) or type(error).__name__})") from None


class _RangeRefused(Exception):
    """What is on the disk is no beginning of what the server has."""


class _CarefulRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only over http and https, and never from an encrypted address to an open one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request to follow with."""
        secure = newurl.startswith("https:")
        if not secure and (req.full_url.startswith("https:") or not newurl.startswith("http:")):
            raise WeightsError(
                f"{req.full_url} sends on to {newurl}, which is not encrypted, or not of the web, so it "
                "was not followed; set NEXUS_HUB_URL to an address that you trust"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """As urllib does by default, proxies of the environment included."""
    return urllib.request.build_opener(_CarefulRedirects)


# -- what is on the disk, and what the server sends ------------------------------------------------


def _kept(part: Path, url: str) -> tuple[_Version, int]:
    """The version that a `.part` belongs to and how much of it is there; 0 if it cannot be gone on with."""
    try:
        version = _Version(**json.loads(_notes(part).read_text(encoding="utf-8")))
        size = part.stat().st_size
    except (OSError, ValueError, TypeError):
        return _Version(url), 0
    usable = version.url == url and version.validator and size <= (version.total or size)
    return (version, size) if usable else (_Version(url), 0)


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _place(response: Any, url: str, version: _Version, size: int) -> tuple[int, _Version]:
    """Where the bytes of an answer belong, and the version that they are of."""
    if getattr(response, "status", None) != 206:
        length = response.headers.get("Content-Length", "")
        return 0, _Version(url, _validator(response), int(length) if length.isdigit() else None)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None or not size or int(found[1]) != size:
        raise _RangeRefused
    total = None if found[2] == "*" else int(found[2])
    # Some servers honour Range without looking at If-Range.
    same = _validator(response) in (None, version.validator) and total in (None, version.total)
    if not same:
        raise _RangeRefused
    return size, version


def _validator(response: Any) -> str | None:
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _copy(response: Any, part: Path, start: int, version: _Version, report: Report) -> None:
    if response.headers.get_content_type() == "text/html":
        raise WeightsError(
            f"{version.url}: the server sent a web page, not a weight file: an error page, or the login of "
            "your network. Open the address in a browser, or set NEXUS_HUB_URL to another one"
        )
    missing = (version.total or 0) - start
    if missing > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, f"{missing / 1e6:,.0f} MB are missing")
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        write_atomic(_notes(part), json.dumps(asdict(version)))
        done = start
        report(done, version.total)
        while block := read_block(response):
            file.write(block)
            done += len(block)
            report(done, version.total)
    if version.total is not None and done != version.total:
        raise Broken(f"only {done:,} of {version.total:,} bytes came")


# -- what went wrong --------------------------------------------------------------------------------


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    """Statuses other than 200 and 206."""
    if error.code == 416:
        return _RangeRefused()
    if error.code in _TRY_AGAIN:
        return Broken(f"the server answers {error.code} {error.reason}", _retry_after(error.headers))
    cure = {
        404: "there is no such file there; check NEXUS_HUB_URL",
        403: "it refuses, or there is no such file; check NEXUS_HUB_URL",
        407: "your proxy asks for a password; put it into https_proxy",
    }.get(error.code, "check NEXUS_HUB_URL, or fetch the file by other means")
    return Missing(f"{url}: the server answers {error.code} {error.reason}: {cure}", error.code)


class Missing(WeightsError):
    """The server answers, but with a status that another attempt would not change: `code`."""

    def __init__(self, message: str, code: int = 404) -> None:
        super().__init__(message)
        self.code = code


def _retry_after(headers: Any) -> float:
    """Seconds that the server asks to wait, at most a minute."""
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return min(float(value), 60.0)
    parsed = email.utils.parsedate_tz(value)
    return 0.0 if parsed is None else 10.0


def _unreachable(url: str, error: Exception) -> Exception:
    """No answer at all."""
    reason = getattr(error, "reason", error)
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    if isinstance(reason, FileNotFoundError):
        return Missing(f"{url}: there is no such file; check NEXUS_HUB_URL")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return WeightsError(
            f"{url}: the server's certificate is not trusted ({reason.verify_message}); if a proxy of your "
            "site signs it, name its certificate in SSL_CERT_FILE"
        )
    final = isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN
    if final or isinstance(error, http.client.InvalidURL) or "unknown url type" in text:
        return WeightsError(f"{url} cannot be reached: {text}; check the network and NEXUS_HUB_URL")
    timed_out = isinstance(reason, TimeoutError)
    return Broken("the server does not answer" if timed_out else f"no connection ({text})")
