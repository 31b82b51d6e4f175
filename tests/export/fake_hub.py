"""A hub in this process: enough of the Hub's HTTP interface for huggingface-hub 0.25 to 2 to look up and download from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

LARGE_SUFFIXES = (".safetensors", ".gguf", ".bin")


@dataclass
class Repository:
    """Files of one commit by path; large ones are kept like Git LFS does, under their SHA-256."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)

    def has(self, revision: str) -> bool:
        return revision in self.revisions or revision == self.commit


@dataclass
class FakeHub:
    """Repositories, what goes wrong, and the requests that were made as (method, path)."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the first byte each download of a large file asked for
    sent: int = 0  # bytes of large files
    gated: bool = False
    status: int | None = None  # answer everything with it
    cuts: list[int] = field(default_factory=list)  # send only so many bytes of a large file and hang up, once each
    swapped: dict[str, bytes] = field(default_factory=dict)  # send other bytes than the listing promises
    silent: bool = False  # take the connection and never answer
    ended: threading.Event = field(default_factory=threading.Event)

    def downloads(self) -> list[str]:
        """Paths of the files whose bytes were asked for."""
        return [path for method, path in self.requests if method == "GET" and ("/resolve/" in path or "/lfs/" in path)]

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        """Listens on a free port of this machine while the body runs."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.silent:
            self.hub.ended.wait()
            self.close_connection = True
        elif self.hub.status is not None:
            self._send(self.hub.status, b"{}")
        elif self.hub.gated:
            self._send(
                401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
            )
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/").split("/"))
        elif path.startswith("/lfs/"):
            self._large(path.removeprefix("/lfs/"))
        else:
            self._resolve(path)

    def _find(self, name: str, revision: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif not repository.has(revision):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return repository
        return None

    def _api(self, parts: list[str]) -> None:
        name, kind = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        repository = self._find(name, "/".join(parts[3:]) or "main")
        if repository is None:
            return
        if kind == "tree":
            body: object = [_tree_entry(path, content) for path, content in repository.files.items()]
        else:
            siblings = [_sibling(path, content) for path, content in repository.files.items()]
            body = {"id": name, "modelId": name, "sha": repository.commit, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self._find(name, revision)
        if repository is None:
            return
        content = repository.files.get(file)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_git_digest(content)}"'}
        if not file.endswith(LARGE_SUFFIXES):
            self._send(200, content, headers)
            return
        digest = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        # Large files are served by another host, which the client tells by its name.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self._send(302, b"", headers | {"Location": f"{elsewhere}/lfs/{digest}"})

    def _large(self, digest: str) -> None:
        contents = [content for repository in self.hub.repositories.values() for content in repository.files.values()]
        content = next(item for item in contents if hashlib.sha256(item).hexdigest() == digest)
        content = self.hub.swapped.get(digest, content)
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        first, end = int(first), int(last) + 1 if last else len(content)
        self.hub.starts.append(first)
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        partial = first > 0 or end < len(content)
        if partial:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        self.hub.sent += len(content[first:end])
        self._send(206 if partial else 200, content[first:end], headers, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _git_digest(content)}
    if path.endswith(LARGE_SUFFIXES):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _git_digest(content)}
    if path.endswith(LARGE_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def use(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns huggingface-hub to this hub and an own cache; the library reads its settings at import only."""
    from huggingface_hub import constants

    monkeypatch.setattr("edgelm_export.hub.endpoint", lambda: hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
