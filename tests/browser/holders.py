"""Users of a cluster's broker who hold shares, without a Jupyter server of theirs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from servers import until

sys.path.append(str(Path(__file__).parents[1] / "cluster_hub"))

from hub_of_cluster import ACCESS, HubOfCluster, hub_of_cluster

__all__ = ["Holder", "HubOfCluster", "hub_of_cluster"]

#: Seconds between two signs of life.
_BEAT = 1.0


class Holder:
    """A process of a user's server, as far as the broker can tell.

    It gives a share back where it is asked for it, as a Jupyter server does.
    """

    def __init__(self, hub: HubOfCluster, user: str, server: str = "") -> None:
        self._hub = hub
        hub.ask("POST", f"/users/{quote(user, safe='')}")
        scopes = [ACCESS, f"access:servers!server={user}/{server}"]
        body = {"scopes": [*scopes, f"read:users!user={user}"]}
        self._token = hub.ok("POST", f"/users/{quote(user, safe='')}/tokens", body)["token"]
        self._instance, self._attempts = uuid4().hex, dict[str, str]()
        #: Seconds for which nobody has used a kernel, by its id.
        self.idle: dict[str, float] = {}
        #: Whether it gives back at once what it is asked for; else it does nothing.
        self.gives = True
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._live, name=f"server of {user}")

    @classmethod
    @contextmanager
    def alive(cls, hub: HubOfCluster, user: str, server: str = "") -> Iterator[Holder]:
        """A new one, which lives until the block ends."""
        holder = cls(hub, user, server)
        holder._beats.start()
        try:
            yield holder
        finally:
            holder._over.set()
            holder._beats.join()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Gpu-Share-Instance": self._instance}
        return self._hub.ask_broker(method, path, self._token, body, **headers)

    def start(self, kernel: str, size: str, path: str, state: str = "ready") -> None:
        """Start a kernel, and wait for what becomes of it."""
        keys = {
            "key": "0" * 32,
            "signature_scheme": "hmac-sha256",
            "curve_publickey": "0" * 40,
            "curve_secretkey": "0" * 40,
        }
        self._attempts[kernel] = uuid4().hex
        plan = {
            "attempt": self._attempts[kernel],
            "size": size,
            "info": {"kernel_name": "python3", "path": path},
            "pod": {"language": "python", "flags": [], "hash_seed": "", "keys": keys},
        }
        status, answer = self.ask("PUT", f"/v1/shares/{kernel}", plan)
        assert status in (200, 201), answer
        until(lambda: self.state(kernel) == state, f"{path} is {state}: {self.rows()}")

    def rows(self) -> list[dict[str, Any]]:
        status, rows = self.ask("GET", "/v1/shares")
        assert status == 200, rows
        found: list[dict[str, Any]] = rows
        return found

    def state(self, kernel: str) -> str | None:
        """How a kernel is, if it is."""
        return next((row["state"] for row in self.rows() if row["kernel_id"] == kernel), None)

    def _live(self) -> None:
        while not self._over.wait(_BEAT):
            kernels = {
                name: {"idle_seconds": seconds, "keep_seconds": None, "kept": True}
                for name, seconds in list(self.idle.items())
            }
            status, answer = self.ask("PUT", "/v1/idle", {"kernels": kernels})
            for kernel in answer["wanted"] if status == 200 and self.gives else ():
                attempt = {"attempt": self._attempts[kernel]}
                self.ask("POST", f"/v1/shares/{kernel}/release", attempt)
