"""A hub on this machine that serves the demo models, so that downloads can be tried without a network.

It answers what a client asks of a hub (the page of a model with its files and their digests, and the files at a
commit), on the loopback address alone, read-only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from . import DEMO_MODELS, demo_model_dir

OWNER = "demo"


class DemoHub:
    """The demo models as ``demo/gpt2`` and ``demo/llama`` at `url`, until `close` or the end of a ``with``.

    ::

        hub = DemoHub()
        %trt_download demo/gpt2 --mirror {hub.url}
    """

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.models = tuple(f"{OWNER}/{name}" for name in DEMO_MODELS)
        threading.Thread(target=self._server.serve_forever, name="demo hub", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DemoHub with {', '.join(self.models)}, on this machine only"


@functools.cache
def _files(name: str) -> dict[str, tuple[Path, str]]:
    """Return the model's files and their SHA-256 digests."""
    files = sorted(path for path in demo_model_dir(name).iterdir() if path.is_file())
    return {path.name: (path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def _commit(name: str) -> str:
    """Return a commit as a hub names one: 40 hexadecimal digits that follow from the content."""
    content = "".join(f"{file} {digest}\n" for file, (_, digest) in _files(name).items())
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_page = parts[:2] == ["api", "models"]
        owner, name, *rest = [*(parts[2:] if is_page else parts), "", ""]
        rest = [part for part in rest if part]
        if owner != OWNER or name not in DEMO_MODELS:
            return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
        commit = _commit(name)
        if len(rest) > 1 and rest[1] not in ("main", commit):
            return self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"}, body)
        if is_page:
            return self._send(200, json.dumps(_page(name, commit)).encode(), {}, body)
        found = _files(name).get("/".join(rest[2:]))
        if rest[:1] != ["resolve"] or found is None:
            return self._send(404, b'{"error": "Entry not found"}', {"X-Error-Code": "EntryNotFound"}, body)
        path, digest = found
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        return self._send(200, path.read_bytes(), headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _page(name: str, commit: str) -> dict[str, Any]:
    files = [
        {
            "rfilename": file,
            "size": path.stat().st_size,
            "lfs": {"sha256": digest, "size": path.stat().st_size, "pointerSize": 134},
        }
        for file, (path, digest) in _files(name).items()
    ]
    facts = {"id": f"{OWNER}/{name}", "sha": commit, "private": False, "gated": False, "disabled": False}
    return {**facts, "downloads": 0, "likes": 0, "tags": [], "siblings": files}
