"""A Hugging Face hub on 127.0.0.1: the parts of its HTTP API that a download uses, and the faults of real ones."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM_BYTES = 1000  # larger files are kept outside git and served by another host, as the hub does


@dataclass
class Commit:
    """The files of one commit."""

    sha: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """One model: commits by branch or tag, and who may read it."""

    refs: dict[str, Commit] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # needed to read a private or gated model

    def find(self, revision: str) -> Commit | None:
        return self.refs.get(revision) or next((c for c in self.refs.values() if c.sha == revision), None)


@dataclass(frozen=True)
class Request:
    """A request as it was received."""

    method: str
    path: str
    host: str
    range: str | None
    token: str | None


class HubServer(ThreadingHTTPServer):
    """The server; its public attributes are knobs for faults.

    Attributes
    ----------
    drop_after
        File name → byte counts after which each following answer for it is cut by closing the connection.
    stored
        File name → bytes that are served instead of the right ones.
    refuse
        Answers with this status (and headers) come first, one a request of a file.
    ignore_range
        Serve whole files whatever range is asked for.
    without_sizes
        Leave sizes out of the model's page, as some mirrors do.
    hold
        When set, a file's answer waits for it half-way.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.drop_after: dict[str, list[int]] = {}
        self.stored: dict[str, bytes] = {}
        self.refuse: list[tuple[int, dict[str, str]]] = []
        self.ignore_range = False
        self.without_sizes = False
        self.hold: threading.Event | None = None
        self.half_way = threading.Event()
        self.answer: Callable[[str], tuple[int, bytes] | None] = lambda path: None
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, files: dict[str, bytes], *, revision: str = "main") -> Commit:
        """Commit `files` to a branch of a model; return the commit."""
        content = repr(sorted(files.items())).encode()
        commit = Commit(hashlib.sha1(content, usedforsecurity=False).hexdigest(), files)
        self.repos.setdefault(repo_id, Repo()).refs[revision] = commit
        return commit

    def file_requests(self, name: str) -> list[Request]:
        """Requests that brought bytes of one file."""
        return [
            r
            for r in self.requests
            if r.method == "GET" and unquote(r.path).endswith(f"/{name}") and "/api/" not in r.path
        ]


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route(body=True)

    def do_HEAD(self) -> None:
        self._route(body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _route(self, *, body: bool) -> None:
        hub, url = self.server, urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        token = authorization.removeprefix("Bearer ") if authorization else None
        with hub.lock:
            hub.requests.append(Request(self.command, url.path, self.headers["Host"], self.headers.get("Range"), token))
        answer = hub.answer(url.path)
        if answer is not None:
            return self._send(answer[0], answer[1])
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "cdn":
            return self._file(parts[1], "/".join(parts[2:]), body)
        if parts[:2] == ["api", "models"]:
            owner, rest = "/".join(parts[2:4]), parts[4:]
        else:
            owner, rest = "/".join(parts[:2]), parts[2:]
        repo = hub.repos.get(owner)
        if repo is None or (repo.token is not None and not repo.gated and token != repo.token):
            return self._fail(401, "RepoNotFound", "Repository not found")
        if token is not None and token.startswith("expired"):
            return self._fail(401, None, "Invalid credentials in Authorization header")
        if rest == ["refs"]:
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c.sha} for n, c in repo.refs.items()]
            return self._json({"branches": branches, "tags": [], "converts": []})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repo.find(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if not rest or rest[0] == "revision":
            with_blobs = "blobs" in parse_qs(url.query) and not hub.without_sizes
            return self._json(_model_page(owner, commit, with_blobs))
        if rest[0] == "tree":
            return self._json([_tree_entry(name, content) for name, content in commit.files.items()])
        if repo.gated and token != repo.token:
            return self._fail(401 if token is None else 403, "GatedRepo", f"Access to model {owner} is restricted.")
        return self._resolve(commit, "/".join(rest[2:]), body)

    def _resolve(self, commit: Commit, name: str, body: bool) -> None:
        content = commit.files.get(name)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found")
        if len(content) < LFS_FROM_BYTES:
            return self._file(commit.sha, name, body)
        headers = {
            # Another host name for the same machine: a client must not send its token there.
            "Location": f"http://localhost:{self.server.server_port}/cdn/{commit.sha}/{name}",
            "X-Repo-Commit": commit.sha,
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        self._send(302, b"", headers)

    def _file(self, sha: str, name: str, body: bool) -> None:
        hub = self.server
        commit = next(c for repo in hub.repos.values() for c in repo.refs.values() if c.sha == sha)
        if body and hub.refuse:
            status, headers = hub.refuse.pop(0)
            return self._send(status, b"", headers)
        right = commit.files[name]
        content = hub.stored.get(name, right)
        headers = {"ETag": f'"{_oid(right)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        start, asked = 0, self.headers.get("Range")
        if asked and not hub.ignore_range:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status = 206 if "Content-Range" in headers else 200
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        payload = content[start:]
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if body:
            self._send_payload(name, payload)

    def _send_payload(self, name: str, payload: bytes) -> None:
        hub = self.server
        with hub.lock:
            cuts = hub.drop_after.get(name)
            cut = cuts.pop(0) if cuts else None
        first = len(payload) // 2 if hub.hold is not None else len(payload)
        for piece in (payload[:first], payload[first:]):
            if cut is not None:
                piece = piece[:cut]
                cut -= len(piece)
            self._write(piece)
            if hub.hold is not None and piece:
                hub.half_way.set()
                hub.hold.wait(60)
            if cut == 0:
                self.close_connection = True
                self.connection.close()
                return

    def _write(self, piece: bytes) -> None:
        try:
            self.wfile.write(piece)
            self.wfile.flush()
            with self.server.lock:
                self.server.bytes_sent += len(piece)
        except OSError:
            self.close_connection = True

    def _json(self, payload: object) -> None:
        self._send(200, json.dumps(payload).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LFS_FROM_BYTES else _git_oid(content)


def _lfs(content: bytes) -> dict[str, object]:
    if len(content) < LFS_FROM_BYTES:
        return {}
    return {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


def _model_page(repo_id: str, commit: Commit, with_blobs: bool) -> dict[str, object]:
    siblings = []
    for name, content in commit.files.items():
        details = {"size": len(content), "blobId": _git_oid(content), **_lfs(content)} if with_blobs else {}
        siblings.append({"rfilename": name, **details})
    return {"id": repo_id, "modelId": repo_id, "sha": commit.sha, "private": False, "gated": False,
            "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}  # fmt: skip


def _tree_entry(name: str, content: bytes) -> dict[str, object]:
    lfs = _lfs(content).get("lfs")
    details = {"lfs": {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}} if isinstance(lfs, dict) else {}
    return {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content), **details}
