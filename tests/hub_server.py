"""A server on loopback that misbehaves in chosen ways, to download weights from."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """The files of a server and how it treats them; every request is noted in `seen`."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    """Whether it looks at `If-Range`; some servers do not."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut, one entry an answer; then no more."""
    lie: int = 0
    """What `Content-Length` says too much."""
    status: list[int] = field(default_factory=list)
    """Statuses to answer with, one an answer; then 200."""
    headers: dict[str, str] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    """Seconds of silence before each answer."""
    pause: float = 0.0
    """Seconds between two blocks of an answer."""
    chunked: bool = False
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and `Range` of each request."""
    url: str = ""

    def asked(self, path: str) -> list[str | None]:
        """The `Range` of each request for a file."""
        return [wanted for name, wanted in self.seen if name == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        site, path = self.site, self.path.lstrip("/")
        site.seen.append((path, self.headers.get("Range")))
        time.sleep(site.hang)
        if path in site.redirect:
            self._answer(302, b"", {"Location": site.redirect[path]})
        elif path not in site.files:
            self._answer(404, b"<html>not found</html>", {"Content-Type": "text/html"})
        elif site.status and path.endswith(".pth"):
            self._answer(
                site.status.pop(0), b"<html>no</html>", {"Content-Type": "text/html", **site.headers}
            )
        else:
            self._file(site.files[path], path.endswith(".pth"))

    def _file(self, data: bytes, weights: bool) -> None:
        site, start, status = self.site, 0, 200
        headers = {"Content-Type": "application/octet-stream", **site.headers}
        headers |= {"ETag": site.etag} if site.etag else {}
        headers |= {"Last-Modified": site.modified} if site.modified else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        fresh = not site.if_range or self.headers.get("If-Range") in (site.etag, site.modified)
        if wanted and site.ranges and fresh:
            start, status = int(wanted[1]), 206
            if start >= len(data):
                self._answer(416, b"", {})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = site.cut_after.pop(0) if site.cut_after and weights else None
        self._answer(status, data[start:], headers, cut=cut, lie=site.lie if weights else 0)

    def _answer(
        self, status: int, body: bytes, headers: dict, *, cut: int | None = None, lie: int = 0
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) + lie))
        self.end_headers()
        whole, body = body, body if cut is None else body[:cut]
        for start in range(0, len(body), 1 << 16):
            block = body[start : start + (1 << 16)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if self.site.chunked else block)
            time.sleep(self.site.pause)
        if self.site.chunked and len(body) == len(whole):
            self.wfile.write(b"0\r\n\r\n")
        if cut is not None or lie:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that left is what the tests provoke."""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Run the server; `site.url` is its address."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
