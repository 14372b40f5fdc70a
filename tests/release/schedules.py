"""Random schedules of cells, releases, wakes, changes of size and kills, and what holds always.

Every cell notes its token in a variable of the kernel and prints it. A token is seen at most once;
a cell that was answered with ok has run exactly once, one that was answered with an error has not;
and between two kills no variable is lost.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import uuid4

import websocket
from servers import TOKEN, Server, until
from waiting import PATIENCE

__all__ = ["ACTIONS", "Schedule"]

ACTIONS = (
    *("cell", "cell", "cells", "release", "release", "wake", "resize", "resize"),
    *("reload", "tab", "pause"),
)
SIZES = ("1/4", "1/2", "3/4", "1")
_CODE = "ran = globals().get('ran', []); ran.append({0!r}); print('RAN', {0!r})"


class Page:
    """A tab: one websocket, and what came over it."""

    def __init__(self, server: Server, kernel_id: str, heard: Heard) -> None:
        url = server.url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
        header = [f"Authorization: token {TOKEN}"]
        self._socket = websocket.create_connection(url, header=header, timeout=PATIENCE)
        self._heard = heard
        self._session = uuid4().hex
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def run(self, token: str) -> None:
        """Send a cell; its message has the token for its id."""
        header = {"msg_id": token, "msg_type": "execute_request", "version": "5.3"}
        header |= {"session": self._session, "username": "", "date": "2026-01-01T00:00:00Z"}
        content = {"code": _CODE.format(token), "silent": False, "store_history": True}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps({**message, "channel": "shell"}))

    def close(self) -> None:
        """Leave, as a page that is reloaded does."""
        with suppress(Exception):
            self._socket.close()
        self._thread.join(PATIENCE)

    def _listen(self) -> None:
        with suppress(Exception):
            while True:
                text = self._socket.recv()
                if not text:
                    return
                self._heard.take(json.loads(text))


@dataclass
class Heard:
    """What all pages have heard, each message once."""

    status: dict[str, str] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    _seen: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, message: dict[str, object]) -> None:
        """Note a message."""
        header, parent = message["header"], message["parent_header"]
        assert isinstance(header, dict)
        assert isinstance(parent, dict)
        content = message["content"]
        assert isinstance(content, dict)
        with self._lock:
            if header["msg_id"] in self._seen:
                return  # the other tab has heard it too
            self._seen.add(header["msg_id"])
            if header["msg_type"] == "execute_reply":
                self.status[str(parent.get("msg_id"))] = content["status"]
            elif header["msg_type"] == "stream" and content["name"] == "stdout":
                for line in content["text"].splitlines():
                    if line.startswith("RAN "):
                        self.ran[line.split()[1]] += 1


@dataclass
class Schedule:
    """One schedule on one kernel.

    Attributes
    ----------
    kills: what is done to the kernel's world, by name; each makes the kernel answer again, and
        tells whether its variables are still there.
    """

    server: Server
    kernel_id: str
    seed: str
    kills: dict[str, Callable[[Schedule], bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.heard = Heard()
        self.pages = [Page(self.server, self.kernel_id, self.heard)]
        self.sent: list[str] = []
        self.sender: dict[str, Page] = {}
        self.excused: set[str] = set()
        self.began = 0
        self.log: list[str] = []
        self._pool = ThreadPoolExecutor(4)
        self._asked: list[Future[object]] = []

    def run(self, steps: int = 8) -> None:
        """Go through it, and check."""
        try:
            for _ in range(steps):
                kill = self.kills and self.rng.random() < 0.2
                action = self.rng.choice(sorted(self.kills)) if kill else self.rng.choice(ACTIONS)
                self.log.append(action)
                if kill:
                    self._kill(action)
                else:
                    getattr(self, f"_{action}")()
                time.sleep(self.rng.uniform(0, 0.3))
            self._check()
        except AssertionError as error:
            row = self.server.fetch(f"gpu-share/allocations/{self.kernel_id}")[1]
            raise AssertionError(f"{error}\nseed {self.seed}: {self.log}\n{row}") from error
        finally:
            for page in self.pages:
                page.close()
            self._pool.shutdown()

    # -- actions -----------------------------------------------------------------------------

    def _cell(self) -> None:
        self._send(self.rng.choice(self.pages))

    def _cells(self) -> None:
        page = self.rng.choice(self.pages)
        for _ in range(3):
            self._send(page)

    def _send(self, page: Page, token: str = "") -> None:
        token = token or f"t{len(self.sent)}"
        self.sent.append(token)
        self.sender[token] = page
        page.run(token)

    def _ask(self, what: str, method: str = "POST", body: object = None) -> None:
        place = f"gpu-share/allocations/{self.kernel_id}{what}"

        def ask() -> object:
            with suppress(OSError):
                return self.server.fetch(place, method, body)
            return None

        self._asked.append(self._pool.submit(ask))

    def _release(self) -> None:
        self._ask("/release")

    def _wake(self) -> None:
        self._ask("/wake")

    def _resize(self) -> None:
        self._ask("", "PATCH", {"size": self.rng.choice(SIZES)})

    def _pause(self) -> None:
        time.sleep(self.rng.uniform(0, 1.0))

    def _reload(self) -> None:
        # What was sent and not answered may be answered to nobody.
        self.excused |= {token for token in self.sent if token not in self.heard.status}
        self.pages.pop(self.rng.randrange(len(self.pages))).close()
        self.pages.append(Page(self.server, self.kernel_id, self.heard))

    def _tab(self) -> None:
        if len(self.pages) < 2:
            self.pages.append(Page(self.server, self.kernel_id, self.heard))

    def _kill(self, name: str) -> None:
        time.sleep(self.rng.uniform(0, 0.5))
        kept = self.kills[name](self)
        self.excused |= {token for token in self.sent if token not in self.heard.status}
        if not kept:
            self.began = len(self.sent)
        for page in self.pages:
            page.close()
        self.pages = [Page(self.server, self.kernel_id, self.heard)]

    # -- what must hold ----------------------------------------------------------------------

    def _check(self) -> None:
        for asked in self._asked:
            asked.result(PATIENCE)
        last = Page(self.server, self.kernel_id, self.heard)
        self.pages.append(last)
        self._send(last, "last")
        until(lambda: "last" in self.heard.status, f"the last cell is answered ({self.log})")
        waited = [token for token in self.sent if token not in self.excused]
        until(
            lambda: all(token in self.heard.status for token in waited),
            f"every cell is answered: {self.heard.status}",
        )
        place = f"gpu-share/allocations/{self.kernel_id}"
        row = until(lambda: (row := self.server.ok(place))["share"] and row, "it holds a share")
        held = row["share"]["fraction"]
        assert Fraction(held) == Fraction(row["size"]), f"{held} is held, size {row['size']}"
        said = self.server.run_cell(self.kernel_id, "print(ran)")
        ran: list[str] = json.loads(said.replace("'", '"'))
        doubled = [token for token, times in Counter(ran).items() if times > 1]
        assert not doubled, f"ran twice: {doubled}"
        assert max(self.heard.ran.values()) == 1, f"printed twice: {self.heard.ran}"
        for page in set(self.sender.values()):  # which of two tabs is faster, nobody promises
            own = [token for token in ran if self.sender[token] is page]
            assert own == sorted(own, key=self.sent.index), f"out of order: {ran}"
        for token in self.sent[self.began :]:
            status = self.heard.status.get(token)
            if status == "ok":
                assert token in ran, f"{token} was answered with ok and is lost: {ran}"
            elif status is not None:
                assert token not in ran, f"{token} was answered with {status} and has run"
            elif token not in self.excused:
                raise AssertionError(f"{token} was never answered")
