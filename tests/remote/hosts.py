"""Hosts on this machine: a web server that can misbehave, and what it was asked for."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit


@contextmanager
def store_of(*module: str, **env: str) -> Iterator[str]:
    """The endpoint of an object store on this machine: a Python module, a process of its own.

    Args:
        module: its name and arguments; ``PORT`` stands for a free port.
        env: variables of its environment, beside ours.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *(str(port) if word == "PORT" else word for word in module)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as trial:
                if not trial.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError("the object store did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@dataclass
class Asked:
    """A request: for which path, which part, and the bytes of the answer."""

    path: str
    part: str | None
    sent: int


@dataclass
class Host:
    """A web server over a folder.

    Attributes:
        root: of what it gives.
        asked: what it was asked for so far.
        trouble: gets path and how often that was asked for before, and says what to do wrong:
            ``500``, ``404``, ``403``, ``"cut"``, ``"stall"``, ``"whole"`` (ignores ranges),
            ``"short"`` and ``"long"`` (a Content-Length that lies), ``"elsewhere"`` (another
            part), or nothing.
        tags: whether answers say which version they are of.
    """

    root: Path
    asked: list[Asked] = field(default_factory=list)
    trouble: Callable[[str, int], int | str | None] = lambda path, before: None
    tags: bool = True

    def __enter__(self) -> Self:
        host = self

        class Handler(_Handler):
            pass

        Handler.host = host
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.ended = threading.Event()
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *about: object) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Of the root."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, name: str) -> list[Asked]:
        """The requests for a path that ends so."""
        return [one for one in self.asked if one.path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Host

    def log_message(self, *about: object) -> None:
        pass

    def do_HEAD(self) -> None:
        host = self.host
        host.asked.append(Asked(self.path, None, 0))
        wrong = host.trouble(self.path, 0)
        self._head(wrong if isinstance(wrong, int) else 404, 0, {})

    def do_GET(self) -> None:
        host, path = self.host, self.path.partition("?")[0]
        part = self.headers.get("Range")
        entry = Asked(path, part, 0)
        before = len([one for one in host.asked if one.path == path])
        host.asked.append(entry)
        wrong = host.trouble(path, before)
        file = host.root / path.lstrip("/")
        if isinstance(wrong, int):
            self._say(wrong, b"no")
        elif not file.is_file():
            self._say(404, b"not there")
        else:
            self._give(file.read_bytes(), part, wrong, entry)

    def _give(self, data: bytes, part: str | None, wrong: str | None, entry: Asked) -> None:
        total, status, headers = len(data), 200, {}
        if self.host.tags:
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", part or "")
        if found and wrong != "whole":
            start, last = int(found[1]), min(int(found[2]), total - 1)
            if start >= total:
                headers["Content-Range"] = f"bytes */{total}"
                self._say(416, b"", headers)
                return
            if wrong == "elsewhere":
                start, last = start + 1, last + 1
            data = data[start : last + 1]
            status = 206
            headers["Content-Range"] = f"bytes {start}-{last}/{total}"
        length = len(data)
        if wrong == "short":
            length -= 1
        if wrong == "long":
            length += 1
        if wrong == "stall":
            self._head(status, length, headers)
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            until = time.monotonic() + 20
            while not self.host.ended.wait(0.05) and time.monotonic() < until:
                pass
            self.close_connection = True
            return
        if wrong == "cut":
            data = data[: len(data) // 2]
        self._head(status, length, headers)
        entry.sent = len(data)  # before whoever asked can have it all, and look here
        self.wfile.write(data)
        if wrong in ("cut", "long", "short"):
            self.close_connection = True

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(data), headers or {})
        self.wfile.write(data)


class Passed(NamedTuple):
    """A request that came to a gate: its method and path, and the status of the answer."""

    method: str
    path: str
    status: int


@dataclass
class Gate:
    """A way to the object store, on which requests can be refused.

    Attributes:
        store: its endpoint.
        passed: what came by so far.
        refuse: gets method, path and headers of a request, and says with which status it is
            refused.
        ages: by what an object holds, the seconds since it was written: as if it had lain there.
    """

    store: str
    passed: list[Passed] = field(default_factory=list)
    refuse: Callable[[str, str, Mapping[str, str]], int | None] = lambda *request: None
    ages: dict[bytes, float] = field(default_factory=dict)

    def __enter__(self) -> Self:
        class Handler(_Passing):
            pass

        Handler.gate = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *about: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """Of its own end."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gate: Gate

    def log_message(self, *about: object) -> None:
        pass

    def _pass(self) -> None:
        gate, method, path = self.gate, self.command, self.path.partition("?")[0]
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = gate.refuse(method, path, self.headers)
        headers: list[tuple[str, str]] = []
        data = b""
        if status is None:
            onward = http.client.HTTPConnection(urlsplit(gate.store).netloc, timeout=30)
            onward.request(method, self.path, sent, dict(self.headers))
            answer = onward.getresponse()
            status, data = answer.status, answer.read()
            left = _OF_THE_WAY if method == "HEAD" else (*_OF_THE_WAY, "content-length")
            headers = [h for h in answer.getheaders() if h[0].lower() not in left]
            onward.close()
            for held, age in gate.ages.items():
                if method == "GET" and held in data:
                    written = formatdate(time.time() - age, usegmt=True)
                    headers = [h for h in headers if h[0].lower() != "last-modified"]
                    headers.append(("Last-Modified", written))
        gate.passed.append(Passed(method, path, status))
        self.send_response_only(status)
        if method != "HEAD":
            headers.append(("Content-Length", str(len(data))))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass


#: of an answer: headers that are about the way that it took
_OF_THE_WAY = ("connection", "transfer-encoding")
