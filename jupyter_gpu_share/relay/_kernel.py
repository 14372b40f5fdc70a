"""The kernel's side of a relay: one connection, from the first word to the last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from jupyter_client.session import Session

from ..engines.base import Connection
from ..errors import GpuShareError
from ._descriptors import can_open
from ._handshake import Handshake
from ._question import Answer, Question, asking
from ._sockets import BACKS, close, connect_backs
from ._wire import DELIMITER, PARENT, parts

__all__ = ["VISIBLE", "KernelSide"]

#: The relay's own requests come back under a name that no client has.
_OWN_IDENT = b"gpu-share-relay"
#: Seconds between two looks whether the connections can be opened at all.
_LOOK = 1.0

#: What a kernel shows. Of a question of ours it is no part: threads of the user's print it.
VISIBLE = frozenset(
    {
        "stream",
        "display_data",
        "update_display_data",
        "clear_output",
        "comm_open",
        "comm_msg",
        "comm_close",
    }
)


class KernelSide:
    """Sockets to a kernel, and what the relay itself asks of it. Belongs to the relay's thread.

    A kernel that is met is asked for ``kernel_info`` first. ipykernel takes that, as any request,
    for the one that what its threads print comes of: in a process that lived before, the kernel
    side has to set that back.

    Raises
    ------
    zmq.ZMQError, OSError: the sockets cannot be opened. Nothing is left open.
    """

    def __init__(self, where: Connection, session: Session, notices: str) -> None:
        self._session = session
        self._mark = session.session.encode()
        self._handshake = Handshake()
        self._question: Question | None = None
        #: True once the kernel has answered, and its output arrives.
        self.answers = False
        self._look_at = time.monotonic() + _LOOK
        self.sockets = connect_backs(where)
        try:
            self.sockets["iopub"].connect(notices)
            self._greet()
        except BaseException:
            close(self.sockets)
            raise

    @property
    def info(self) -> dict[str, Any]:
        """Content of the kernel's ``kernel_info_reply``."""
        return self._handshake.info

    def send(self, channel: str, frames: Sequence[bytes]) -> None:
        """Hand a message to the kernel. It waits in the socket where the kernel does not read."""
        self.sockets[channel].send_multipart(frames)

    def subscribe(self) -> None:
        """See that the kernel's output arrives, whatever clients unsubscribe from next.

        A client that subscribed while no carriers ran takes back what the relay asked for when it
        leaves. Subscriptions are counted: one more for each time that clients reach the kernel.
        """
        self.sockets["iopub"].send(b"\x01")

    def is_own(self, frames: list[bytes]) -> bool:
        """Whether a message of the kernel comes of what the relay asked."""
        # Most do not, and there may be thousands a second: one look before anything is decoded.
        try:
            return self._mark in frames[frames.index(DELIMITER) + PARENT]
        except (ValueError, IndexError):
            return False

    def note(self, frames: list[bytes]) -> str:
        """Take note of a message that is the relay's own. Returns its type."""
        header, parent, content = parts(frames)
        if not self.answers:
            self._handshake.note(header, parent, content)
            self.answers = self._handshake.done
        elif self._question is not None:
            self._question.note(header, parent, content, frames)
            if self._question.done:
                question, self._question = self._question, None
                question.settle()
        return str(header.get("msg_type", ""))

    # -- what the relay asks -----------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When :meth:`tick` has something to do, in seconds of ``time.monotonic``."""
        if not self.answers:
            due = self._handshake.due
            return self._look_at if due is None else min(due, self._look_at)
        return self._question.due if self._question is not None else None

    def tick(self) -> None:
        """Do what is due.

        Raises
        ------
        OSError: the connections cannot be opened.
        """
        due, now = self.due, time.monotonic()
        if due is None or now < due:
            return
        if not self.answers:
            if now >= self._look_at:
                self._look_at = now + _LOOK
                can_open(len(BACKS))
            if (again := self._handshake.due) is not None and now >= again:
                self._greet()
        elif self._question is not None:
            self._question.probed(self._ask("kernel_info_request", {}))

    def ask(
        self,
        code: str,
        buffers: Sequence[bytes],
        future: Future[Answer],
        last_cell: Mapping[str, Any] | None,
    ) -> None:
        """Run code in the kernel, which must be paused; its message names the last cell.

        Raises
        ------
        GpuShareError: it cannot be asked now.
        """
        if not self.answers or (self._question is not None and not self._question.given_up):
            raise GpuShareError("The kernel cannot be asked now.")
        metadata = {"gpu_share": {"last_cell": last_cell}}
        sent = self._ask("execute_request", asking(code), buffers, metadata)
        self._question = Question(sent, future)

    def ask_whether_over(self, last_cell: Mapping[str, Any] | None) -> str:
        """Send a request behind all that was handed on, which is answered in order; its id."""
        return self._ask(
            "kernel_info_request", {}, metadata={"gpu_share": {"last_cell": last_cell}}
        )

    def give_up(self, why: str) -> None:
        """Wait no longer for an answer."""
        if self._question is not None:
            question, self._question = self._question, None
            question.give_up(why)

    def close(self) -> None:
        """Close the sockets; who waits for an answer is told."""
        close(self.sockets)
        self.give_up("The kernel is gone.")

    def _greet(self) -> None:
        self._handshake.sent(self._ask("kernel_info_request", {}))

    def _ask(
        self,
        kind: str,
        content: dict[str, Any],
        buffers: Sequence[bytes] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Send a request of our own; its id."""
        message = self._session.msg(kind, content, metadata=dict(metadata or {}))
        frames = [*self._session.serialize(message, _OWN_IDENT), *buffers]
        self.send("shell", frames)
        return str(message["msg_id"])
