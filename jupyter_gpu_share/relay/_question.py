"""What the relay itself asks of a kernel, in a cell that no client sees."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..errors import GpuShareError
from ._sockets import DELIMITER, parts

#: Signature, header, parent header, metadata and content come before the buffers.
_BUFFERS = 6


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
    """One question, until its reply is there and all that belongs to it was heard."""

    def __init__(self, msg_id: str, future: Future[Answer]) -> None:
        self._msg_id = msg_id
        self._future = future
        self._answer: Answer | None = None
        self._error = ""
        self._replied = self._idle = False

    @property
    def done(self) -> bool:
        """True once the kernel has nothing more to say about it."""
        return self._replied and self._idle

    @property
    def given_up(self) -> bool:
        """True where nobody waits for the answer any more."""
        return self._future.done()

    def heard(self, frames: list[bytes]) -> None:
        """Take note of a message of the kernel."""
        header, parent, content = parts(frames)
        if parent.get("msg_id") != self._msg_id:
            return
        kind = header.get("msg_type")
        if kind == "execute_reply":
            self._replied = True
            if content.get("status") != "ok":
                self._error = str(content.get("evalue") or content.get("ename") or "")
        elif kind == "status" and content.get("execution_state") == "idle":
            self._idle = True
        elif kind == "gpu_share_answer" and self._answer is None:
            if "error" in content:
                self._error = str(content["error"]) or "it gave no reason"
            start = frames.index(DELIMITER) + _BUFFERS
            self._answer = Answer(content.get("result"), tuple(frames[start:]))

    def settle(self) -> None:
        """Hand on what came of it."""
        if self._error or self._answer is None:
            self.give_up(self._error or "The kernel gave no answer.")
        elif self._future.set_running_or_notify_cancel():
            self._future.set_result(self._answer)

    def give_up(self, why: str) -> None:
        """There will be no answer."""
        if self._future.set_running_or_notify_cancel():
            self._future.set_exception(GpuShareError(why))
