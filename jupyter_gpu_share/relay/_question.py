"""What the relay itself asks of a kernel, in a cell that no client sees."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..errors import GpuShareError
from ._wire import BUFFERS, DELIMITER

__all__ = ["Answer", "Question", "asking"]

#: Seconds that the reply may come after the kernel is idle again; they travel on two channels.
_GRACE = 0.5
#: Seconds until the kernel is asked once more whether it is past the question: an interrupt may
#: have met that, too.
_AGAIN = 0.5


@dataclass(frozen=True)
class Answer:
    """What a kernel answered. The kernel is its user's own: what it says is to be checked."""

    result: Any
    buffers: tuple[bytes, ...] = ()


def asking(code: str) -> dict[str, Any]:
    """Content of a cell that leaves no trace."""
    return {
        "code": code,
        "silent": True,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


class Question:
    """One question, until its reply is there and all that belongs to it was heard.

    A question is lost where the kernel is idle again and will never reply: an interrupt came while
    ipykernel was about to run the cell, or had just run it. To know that, the kernel is sent a
    second request when it is idle without a reply. It answers both on one channel, in order: where
    the answer to the second comes first, there is none to the question. The same is done where it
    replied and does not say that it is idle.
    """

    def __init__(self, msg_id: str, future: Future[Answer]) -> None:
        self._msg_id = msg_id
        self._future = future
        self._answer: Answer | None = None
        self._error = ""
        self._replied = self._lost = False
        self._idle_at: float | None = None
        self._probes: set[str] = set()
        self._probe_at = 0.0

    @property
    def done(self) -> bool:
        """True once the kernel has nothing more to say about it."""
        return self._lost or (self._replied and self._idle_at is not None)

    @property
    def given_up(self) -> bool:
        """True where nobody waits for the answer any more."""
        return self._future.done()

    @property
    def due(self) -> float | None:
        """When to send the second request, in seconds of ``time.monotonic``; None: not."""
        begun = self._replied or self._idle_at is not None
        return self._probe_at if begun and not self.done else None

    def probed(self, msg_id: str) -> None:
        """The second request is on its way."""
        self._probes.add(msg_id)
        self._probe_at = time.monotonic() + _AGAIN

    def note(
        self,
        header: Mapping[str, Any],
        parent: Mapping[str, Any],
        content: dict[str, Any],
        frames: list[bytes],
    ) -> None:
        """Take note of a message of the kernel."""
        kind = header.get("msg_type")
        asked = str(parent.get("msg_id"))
        idle = kind == "status" and content.get("execution_state") == "idle"
        if asked in self._probes:
            if kind == "kernel_info_reply":
                self._lost = not self._replied
            elif idle and self._replied:
                self._idle_at = time.monotonic()
        if asked != self._msg_id:
            return
        if kind == "execute_reply":
            self._replied = True
            self._probe_at = time.monotonic() + _GRACE
            if content.get("status") != "ok":
                self._error = str(content.get("evalue") or content.get("ename") or "")
        elif idle:
            self._idle_at = time.monotonic()
            self._probe_at = self._idle_at + _GRACE
        elif kind == "gpu_share_answer" and self._answer is None:
            if "error" in content:
                self._error = str(content["error"]) or "it gave no reason"
            start = frames.index(DELIMITER) + BUFFERS
            self._answer = Answer(content.get("result"), tuple(frames[start:]))

    def settle(self) -> None:
        """Hand on what came of it. What was answered before the interrupt was done."""
        if self._error or self._answer is None:
            missing = (
                "The question was interrupted." if self._lost else "The kernel gave no answer."
            )
            self.give_up(self._error or missing)
        elif self._future.set_running_or_notify_cancel():
            self._future.set_result(self._answer)

    def give_up(self, why: str) -> None:
        """There will be no answer."""
        if not self._future.done() and self._future.set_running_or_notify_cancel():
            self._future.set_exception(GpuShareError(why))
