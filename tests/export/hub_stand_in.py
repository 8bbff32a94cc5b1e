"""A stand-in of the Hugging Face hub's HTTP API over local folders, as far as a snapshot's download needs it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "acme/gated"
BROKEN = "acme/broken"
CUT = "acme/cut"
"""Its large files break off in the middle."""


class HubStandIn:
    """A running hub; ``downloads`` lists the paths whose bytes were fetched, ``sent_bytes`` how many of each."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = repositories
        self.downloads: list[str] = []
        self.sent_bytes: Counter[str] = Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._route()

            def do_GET(self) -> None:
                self._route()

            def _route(self) -> None:
                parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
                if parts[0] == "storage" and "/".join(parts[1:3]) == CUT:
                    self.close_connection = True
                    return self._answer(200, b"half", {}, length=10_000_000)
                if parts[0] == "storage":
                    return self._file("/".join(parts[1:3]), "/".join(parts[3:]))
                repository = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
                if repository == GATED:
                    return self._refuse(403, "GatedRepo")
                if repository == BROKEN:
                    return self._refuse(500, "")
                if repository not in hub.repositories:
                    return self._refuse(404, "RepoNotFound")
                if parts[:2] == ["api", "models"]:
                    return self._api(repository, parts[4:])
                if parts[3] not in ("main", COMMIT):
                    return self._refuse(404, "RevisionNotFound")
                path = "/".join(parts[4:])
                if (
                    path.endswith(".safetensors") and (hub.repositories[repository] / path).is_file()
                ):  # large files are answered with a redirect to storage
                    headers = {"Location": f"{hub.endpoint}/storage/{repository}/{path}"}
                    digest = hashlib.sha256((hub.repositories[repository] / path).read_bytes()).hexdigest()
                    headers["X-Linked-Etag"] = f'"{digest}"'
                    headers["X-Linked-Size"] = str((hub.repositories[repository] / path).stat().st_size)
                    return self._answer(302, b"", headers)
                return self._file(repository, path)

            def _api(self, repository: str, rest: list[str]) -> None:
                files = sorted(path for path in hub.repositories[repository].rglob("*") if path.is_file())
                names = [path.relative_to(hub.repositories[repository]).as_posix() for path in files]
                if rest[:1] == ["tree"]:
                    entries = [
                        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}
                        for name, path in zip(names, files, strict=True)
                    ]
                    return self._json(entries)
                if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
                    return self._refuse(404, "RevisionNotFound")
                siblings = [{"rfilename": name} for name in names]
                return self._json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})

            def _file(self, repository: str, path: str) -> None:
                if not (hub.repositories[repository] / path).is_file():
                    self._refuse(404, "EntryNotFound")
                    return
                content = (hub.repositories[repository] / path).read_bytes()
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
                status, part = 200, content
                unit, _, bounds = self.headers.get("Range", "").partition("=")
                if unit == "bytes":
                    first, _, last = bounds.partition("-")
                    part = content[int(first) : int(last) + 1 if last else None]
                    status, headers["Content-Range"] = 206, f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
                if self.command == "GET":
                    hub.downloads.append(path)
                    hub.sent_bytes[path] += len(part)
                self._answer(status, part, headers)

            def _json(self, content: object) -> None:
                self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

            def _refuse(self, status: int, code: str) -> None:
                self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code or "broken"})

            def _answer(
                self, status: int, content: bytes, headers: Mapping[str, str], length: int | None = None
            ) -> None:
                self.send_response(status)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content) if length is None else length))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

        return Handler


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def running_hub(repositories: Mapping[str, Path]) -> Iterator[HubStandIn]:
    """Serve folders as repositories until the block ends."""
    hub = HubStandIn(repositories)
    thread = Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
