"""Random schedules of all that is done to a kernel, and what holds always.

Every cell notes its token in a variable of the kernel and prints it. A token is seen at most once;
a cell that was answered with ok has run exactly once, and one that was answered with an error has
not, unless the kernel was interrupted while it ran. Every cell and every question about the kernel
is answered, unless its page went away or the process or the server was ended under it. Between two
of those ends no variable is lost. After each step what is shown is so on the machine.
"""

from __future__ import annotations

import ast
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

from servers import Server, until
from waiting import PATIENCE

from .pages import Heard, Page

__all__ = ["ACTIONS", "ALL_ACTIONS", "SIZES", "Machine", "Schedule"]

ACTIONS = (
    *("cell", "cell", "cells", "release", "release", "wake", "resize", "resize"),
    *("reload", "tab", "pause"),
)
ALL_ACTIONS = (
    *ACTIONS,
    *("cell", "cells", "release", "wake", "look", "look", "look_at_size", "interrupt", "interrupt"),
    *("restart", "comm", "question", "question"),
)
SIZES = ("1/4", "1/2", "3/4", "1")
_NOTE = "ran = globals().get('ran', []); ran.append({0!r}); print('RAN', {0!r})"
_SLEEP = "__import__('time').sleep({:.3f})"
#: What pages ask about a kernel, with the channel.
_QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("usage_request", "control", {}),
    ("complete_request", "shell", {"code": "ra", "cursor_pos": 2}),
    ("kernel_info_request", "shell", {}),
    ("comm_info_request", "shell", {}),
)
#: Part of the steps after which it is waited until nothing is on its way. After the others the next
#: one meets what is: else no two things would ever meet.
_SETTLES = 0.3


class Machine(Protocol):
    """Where a kernel runs, looked at past its server."""

    def differs(self, row: dict[str, Any], *, settled: bool) -> str:
        """What an allocation says that is not so; empty where it is true."""


@dataclass
class Schedule:
    """One schedule on one kernel.

    Attributes
    ----------
    kills: what is done to the kernel's world, by name; each makes the kernel answer again, and
        tells whether its variables are still there.
    actions: what else is done, by name; one that is named twice is done twice as often.
    machine: None where nobody can look.
    patience: seconds for which something may wait, for other kernels' shares as well.
    """

    server: Server
    kernel_id: str
    seed: str
    kills: dict[str, Callable[[Schedule], bool]] = field(default_factory=dict)
    actions: tuple[str, ...] = ACTIONS
    sizes: tuple[str, ...] = SIZES
    machine: Machine | None = None
    patience: float = 2 * PATIENCE

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.heard = Heard()
        self.pages = [self._open()]
        self.sent: list[str] = []
        self.sender: dict[str, Page] = {}
        self.excused: set[str] = set()
        self.interrupted: set[str] = set()
        self.began = 0
        self.log: list[str] = []
        self._questions = 0
        self._start = time.monotonic()
        self._pool = ThreadPoolExecutor(4)
        self._asked: list[Future[None]] = []
        self._looked: dict[str, Any] = {}

    def run(self, steps: int = 8) -> None:
        """Go through it, and check.

        Raises
        ------
        AssertionError: something does not hold. It has the seed and the log.
        """
        try:
            for _ in range(steps):
                kill = self.kills and self.rng.random() < 0.2
                names = sorted(self.kills) if kill else self.actions
                action = self.rng.choice(names)
                self._note(action)
                if kill:
                    self._kill(action)
                else:
                    getattr(self, f"_{action}")()
                time.sleep(self.rng.choice((0.0, 0.05, 0.3)) * self.rng.random())
                self._look_past_server(settled=self.rng.random() < _SETTLES)
            self._check()
        except Exception as error:
            raise AssertionError(
                f"{error!r}\nseed {self.seed}: {self.log}\n{self._last_row()}"
            ) from error
        finally:
            for page in self.pages:
                with suppress(AssertionError):
                    page.close()
            self._pool.shutdown()

    def row(self) -> dict[str, Any]:
        """What the server shows of the kernel."""
        row: dict[str, Any] = self.server.ok(f"gpu-share/allocations/{self.kernel_id}")
        return row

    @property
    def unanswered(self) -> set[str]:
        """Cells and questions."""
        return {token for token in self.sent if token not in self.heard.answers}

    def finish_requests(self) -> None:
        """Wait for the answers of what the server was asked, which must be no fault of its."""
        asked, self._asked = self._asked, []
        for each in asked:
            each.result(self.patience)

    def _note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._start:.2f} {what}")

    def _last_row(self) -> object:
        try:
            return self.row()
        except (AssertionError, OSError) as error:
            return error

    def _open(self) -> Page:
        return Page(self.server, self.kernel_id, self.heard)

    # -- actions -----------------------------------------------------------------------------

    def _cell(self) -> None:
        self._send(self.rng.choice(self.pages))

    def _cells(self) -> None:
        page = self.rng.choice(self.pages)
        strict = self.rng.random() < 0.3
        for _ in range(3):
            self._send(page, strict=strict)

    def _send(self, page: Page, token: str = "", *, strict: bool = False) -> None:
        token = token or f"t{len(self.sent)}"
        length = self.rng.choice((0.001, 0.001, 0.02, 0.02, 0.3, 3.0)) * self.rng.random()
        code = [_NOTE.format(token)]
        if length >= 0.01:
            code.insert(self.rng.randrange(2), _SLEEP.format(length))
        self._sends(page, token)
        page.run(token, "\n".join(code), strict=strict)

    def _sends(self, page: Page, token: str) -> None:
        self.sent.append(token)
        self.sender[token] = page

    def _question(self) -> None:
        kind, channel, content = self.rng.choice(_QUESTIONS)
        page = self.rng.choice(self.pages)
        self._questions += 1
        token = f"q{self._questions}-{kind}"
        self._sends(page, token)
        page.send(token, kind, content, channel)

    def _comm(self) -> None:
        """A widget of the page changes. It has no answer."""
        page, comm = self.rng.choice(self.pages), uuid4().hex
        data = {"comm_id": comm, "data": {}}
        page.send(uuid4().hex, "comm_open", {**data, "target_name": "jupyter.widget"})
        page.send(uuid4().hex, "comm_msg", data)

    def _ask(self, what: str, method: str = "POST", body: object = None) -> None:
        place, server = f"gpu-share/allocations/{self.kernel_id}{what}", self.server

        def ask() -> None:
            status, said = server.fetch(place, method, body)
            assert status in (200, 409, 503), f"{method} {what} {body}: {status} {said}"

        self._asked.append(self._pool.submit(ask))

    def _release(self) -> None:
        self._ask("/release")

    def _wake(self) -> None:
        self._ask("/wake")

    def _resize(self) -> None:
        self._ask("", "PATCH", {"size": self.rng.choice(self.sizes)})

    def _look(self) -> None:
        self._ask("/release", body={"dry_run": True})

    def _look_at_size(self) -> None:
        self._ask("", "PATCH", {"size": self.rng.choice(self.sizes), "dry_run": True})

    def _interrupt(self) -> None:
        # What had not been answered before may be interrupted; what is sent later is not meant.
        self.interrupted |= self.unanswered
        status, said = self.server.fetch(f"api/kernels/{self.kernel_id}/interrupt", "POST")
        assert status == 204, (status, said)

    def _restart(self) -> None:
        # A restart interrupts first what runs, and goes on at once where that ends.
        server, place, before = self.server, f"api/kernels/{self.kernel_id}/restart", len(self.sent)
        self.interrupted |= self.unanswered

        def restart() -> tuple[int, Any]:
            # jupyter_client refuses one restart during another, as after a kernel's death.
            return until(
                lambda: (said := server.fetch(place, "POST"))[0] != 500 and said,
                "the kernel is restarted",
                self.patience,
            )

        restarting = self._pool.submit(restart)
        for _ in range(self.rng.randrange(3)):
            time.sleep(0.3 * self.rng.random())
            self._send(self.rng.choice(self.pages))
        status, said = restarting.result(self.patience)
        assert status == 200, (status, said)
        self.interrupted |= set(self.sent[before:])
        self.excused |= self.unanswered
        self.began = len(self.sent)

    def _pause(self) -> None:
        time.sleep(self.rng.uniform(0, 1.0))

    def _reload(self) -> None:
        page = self.pages.pop(self.rng.randrange(len(self.pages)))
        # What it sent and was not answered may be answered to nobody.
        self.excused |= {token for token in self.unanswered if self.sender[token] is page}
        page.close()
        self.pages.append(self._open())

    def _tab(self) -> None:
        if len(self.pages) < 2:
            self.pages.append(self._open())

    def _kill(self, name: str) -> None:
        time.sleep(self.rng.uniform(0, 0.5))
        self.interrupted |= self.unanswered
        kept = self.kills[name](self)
        self.excused |= self.unanswered
        if not kept:
            self.began = len(self.sent)
        for page in self.pages:
            page.close()
        self.pages = [self._open()]

    # -- what must hold ----------------------------------------------------------------------

    def _look_past_server(self, *, settled: bool) -> None:
        """What is shown is so on the machine, or becomes so in a moment."""
        if self.machine is None:
            return
        machine, found = self.machine, ""

        def true() -> bool:
            nonlocal found
            before = self.row()
            found = machine.differs(before, settled=settled)
            # What changed meanwhile is looked at again.
            return not found and self.row()["state"] == before["state"]

        try:
            until(true, "what is shown is so", self.patience)
        except AssertionError:
            raise AssertionError(f"shown is what is not so: {found}") from None

    def _check(self) -> None:
        self.finish_requests()
        last = self._open()
        self.pages.append(last)
        for number in count():
            self._send(last, f"last-{number}")
            self._answered(f"last-{number}")
            # One that fails has the kernel abort those that it has got by then.
            if self.heard.answers[f"last-{number}"].status != "aborted":
                break
        for token in self.sent:
            if token not in self.excused:
                self._answered(token)
        self._look_past_server(settled=True)
        if self.machine is None:
            row = until(lambda: (row := self.row())["share"] and row, "it holds a share")
            held = Fraction(row["share"]["fraction"])
            # Where others have to have room to rest, a size is that much less than its name.
            rest = Fraction(1, 500) * (row["style"] == "lease")
            size = Fraction(row["size"])
            assert size - rest <= held <= size, f"{held} is held, size {size}"
        last.run("variables", "pass", ran="ran")
        self._answered("variables")
        found = self.heard.answers["variables"].expressions
        assert "data" in found["ran"], found["ran"]
        ran: list[str] = ast.literal_eval(found["ran"]["data"]["text/plain"])
        for page in self.pages:
            page.check()
        self._check_cells(ran)

    def _answered(self, token: str) -> None:
        until(lambda: token in self.heard.answers, f"{token} is answered", self.patience)

    def _check_cells(self, ran: list[str]) -> None:
        doubled = [token for token, times in Counter(ran).items() if times > 1]
        assert not doubled, f"ran twice: {doubled}"
        assert max(self.heard.ran.values(), default=1) == 1, f"printed twice: {self.heard.ran}"
        for page in set(self.sender.values()):  # which of two tabs is faster, nobody promises
            own = [token for token in ran if self.sender[token] is page]
            assert own == sorted(own, key=self.sent.index), f"out of order: {ran}"
        for token in self.sent:
            answer = self.heard.answers.get(token)
            if answer is not None and not token.startswith("q"):
                self._check_cell(token, ran, kept=token in self.sent[self.began :])

    def _check_cell(self, token: str, ran: list[str], *, kept: bool) -> None:
        answer = self.heard.answers[token]
        if answer.status == "ok":
            assert not kept or token in ran, f"{token} was answered with ok and is lost: {ran}"
            return
        if answer.interrupted:
            assert token in self.interrupted, f"{token} was interrupted by nobody"
            return
        assert token not in ran, f"{token} was answered with {answer} and has run"
        assert token not in self.heard.ran, f"{token} was answered with {answer} and has printed"
