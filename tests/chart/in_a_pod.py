"""What the real broker needs as a pod of the test cluster: the API, and a Hub that is a fake."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Where pods look for the API server. There is no kube-proxy; its certificate has the address.
_SERVICE = "10.96.0.1"
_API = ("127.0.0.1", 6443)
ACCESS = "access:services!service=gpu-share"


@contextmanager
def api_for_pods() -> Iterator[None]:
    """Let pods reach the API server, which listens on loopback only."""
    address = ["ip", "address", "replace", f"{_SERVICE}/32", "dev", "lo"]
    subprocess.run(address, check=True)
    try:
        with forwarded((_SERVICE, 443), lambda: _API):
            yield
    finally:
        subprocess.run(["ip", "address", "delete", f"{_SERVICE}/32", "dev", "lo"], check=True)


@contextmanager
def forwarded(
    address: tuple[str, int], target: Callable[[], tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """Carry what comes to an address to another one, as a Service does; port 0: any.

    Parameters
    ----------
    target: asked for each connection.
    """
    listening = socket.create_server(address, backlog=64)
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def accept() -> None:
        while not ended.is_set():
            try:
                inside, _ = listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=_carry, args=(inside, target, ended), daemon=True)
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listening.getsockname()[:2]
    finally:
        ended.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in (accepting, *threads):
            thread.join(10)


def _carry(
    inside: socket.socket, target: Callable[[], tuple[str, int]], ended: threading.Event
) -> None:
    """Carry bytes both ways until one end is done."""
    with inside, suppress(OSError), socket.create_connection(target(), 5) as outside:
        with selectors.DefaultSelector() as ready:
            ready.register(inside, selectors.EVENT_READ, outside)
            ready.register(outside, selectors.EVENT_READ, inside)
            while not ended.is_set():
                for key, _ in ready.select(1):
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)


class FakeHub:
    """Answers whose a token is, as the Hub's API does, for pods of the cluster.

    Parameters
    ----------
    address: at which pods reach this machine.
    """

    def __init__(self, address: str) -> None:
        self.tokens: dict[str, Any] = {}
        known = self.tokens

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").rpartition(" ")[2]
                found = known.get(token) if self.path == "/hub/api/user" else None
                body = json.dumps(found or {"status": 403}).encode()
                self.send_response(200 if found else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self.api = f"http://{address}:{self._server.server_port}/hub/api"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def service(self, token: str) -> None:
        """Know the broker's own token."""
        self.tokens[token] = {"kind": "service", "name": "gpu-share", "scopes": []}

    def server(self, token: str, user: str, name: str = "") -> None:
        """Know the token of a user's server."""
        scopes = [ACCESS, f"access:servers!server={user}/{name}", f"read:users:name!user={user}"]
        self.tokens[token] = {"kind": "user", "name": user, "groups": [], "scopes": scopes}
