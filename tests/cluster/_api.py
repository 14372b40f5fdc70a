"""The Kubernetes API over plain HTTP: all that the harness and its tests need of a client."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: Longest wait for one answer, in seconds.
PATIENCE = 30.0


class ApiError(Exception):
    """The API server answered with an error; ``status`` is its HTTP status."""

    def __init__(self, status: int, reason: str, message: str, request: str) -> None:
        super().__init__(f"{request}: {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Api:
    """Requests with one token; each on a connection of its own, none through a proxy."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self._host = urlsplit(url).netloc
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._token = token

    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        """Status and body of any answer; `OSError` if there is none."""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        connection = http.client.HTTPSConnection(self._host, timeout=PATIENCE, context=self._tls)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as err:
            raise ConnectionError(f"{method} {path}: {err!r}") from err
        finally:
            connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """The object in a good answer; `ApiError` for any other, `OSError` if there is none."""
        status, data = self.raw(method, path, body, content_type)
        try:
            found = json.loads(data)
        except ValueError:
            found = {"message": data.decode(errors="replace")}
        if status >= 300:
            said = found.get("message", "")
            raise ApiError(status, found.get("reason", ""), said, f"{method} {path}")
        return found

    def get(self, path: str) -> dict[str, Any]:
        """Read one object, or a list."""
        return self.request("GET", path)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object in the collection at ``path``."""
        return self.request("POST", path, body)

    def patch(self, path: str, body: Any, kind: str = "merge-patch") -> dict[str, Any]:
        """Change an object; ``kind`` may be ``json-patch`` or ``strategic-merge-patch`` too."""
        return self.request("PATCH", path, body, f"application/{kind}+json")

    def apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply, as the field manager ``tests``."""
        where = f"{path}?fieldManager=tests&force=true"
        return self.request("PATCH", where, body, "application/apply-patch+yaml")

    def delete(self, path: str, grace: int | None = None) -> bool:
        """Delete an object or a collection; False if there was none."""
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        try:
            self.request("DELETE", path + query)
        except ApiError as err:
            if err.status == 404:
                return False
            raise
        return True


def write_kubeconfig(path: Path, url: str, authority: Path, token: str) -> Path:
    """Write a kubeconfig that names its authority by content; JSON is YAML too."""
    certificate = base64.b64encode(authority.read_bytes()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "tests",
                "cluster": {"server": url, "certificate-authority-data": certificate},
            }
        ],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
        "current-context": "tests",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2))
    return path
