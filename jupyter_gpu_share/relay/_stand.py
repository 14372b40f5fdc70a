"""What the relay says to clients in place of a kernel."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from jupyter_client.session import Session

from ._held import Bound, Held
from ._rules import QUIET_TARGETS, Kind
from ._wire import BUFFERS, DELIMITER, PARENT, Socket, signed

__all__ = ["Stand", "line_of"]

_log = logging.getLogger(__name__)

_EMPTY: dict[str, dict[str, Any]] = {
    "complete_request": {"matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "inspect_request": {"found": False, "data": {}, "metadata": {}},
    "is_complete_request": {"status": "unknown"},
    "history_request": {"history": []},
    "comm_info_request": {"comms": {}},
}
#: A page that is loaded again leaves one behind each time.
_MOST_QUIET_COMMS = 1000


class Stand:
    """Answers for the kernel, on the fronts, in the thread that owns them."""

    def __init__(
        self, fronts: Mapping[str, Socket], key: bytes, signature_scheme: str, language: str
    ) -> None:
        self._fronts = fronts
        self._language = language
        self._key = key
        self.session = Session(
            key=key, signature_scheme=signature_scheme, username="gpu-share", session=uuid4().hex
        )
        self.session.digest_history_size = 2000
        self.kernel_info: dict[str, Any] | None = None
        self._bad = 0
        self._quiet_comms: dict[str, None] = {}

    def read(self, channel: str, frames: list[bytes]) -> Held | None:
        """Understand a client's message; None for one that is not signed with the kernel's key."""
        try:
            idents, rest = self.session.feed_identities(frames)
            message = self.session.deserialize(rest)
            header = message["header"]
            content = message["content"]
            silent, restart = bool(content.get("silent")), bool(content.get("restart"))
            quiet = self.is_quiet(header["msg_type"], content)
        except Exception as error:  # whatever a stranger sends must not end the relay
            self._bad += 1
            if self._bad & (self._bad - 1) == 0:
                _log.warning("Message %d on %s refused: %s", self._bad, channel, error)
            return None
        return Held(channel, frames, idents, dict(header), silent, restart, quiet)

    def is_quiet(self, msg_type: str, content: Mapping[str, Any]) -> bool:
        """Whether a message is of a comm that a page opens by itself.

        Those that pass to a kernel are to be shown too: their comm may go on when none is there.
        """
        comm = str(content.get("comm_id"))
        if msg_type == "comm_open" and content.get("target_name") in QUIET_TARGETS:
            self._quiet_comms[comm] = None
            if len(self._quiet_comms) > _MOST_QUIET_COMMS:
                del self._quiet_comms[next(iter(self._quiet_comms))]
        quiet = msg_type in ("comm_open", "comm_msg", "comm_close") and comm in self._quiet_comms
        if msg_type == "comm_close":
            self._quiet_comms.pop(comm, None)
        return quiet

    def is_signed(self, frames: list[bytes]) -> bool:
        """Whether a message, its buffers aside, is signed with the kernel's key."""
        found = signed(frames)
        if found is None:
            return False
        return not self._key or self.session.sign(found[1]) == found[0]

    def attribute(self, frames: list[bytes], parent: Mapping[str, Any]) -> list[bytes]:
        """The same message of a kernel, as one that came of ``parent``."""
        start = frames.index(DELIMITER)
        covered = frames[start + 2 : start + BUFFERS]
        covered[PARENT - 2] = self.session.pack(dict(parent))
        signature = self.session.sign(covered)
        return [*frames[: start + 1], signature, *covered, *frames[start + BUFFERS :]]

    # -- answers -----------------------------------------------------------------------------

    def answer(self, held: Held) -> None:
        """Answer a request about a kernel from memory, or with nothing. Others get no answer."""
        if held.kind is Kind.KERNEL_INFO:
            content = self.kernel_info or _some_kernel_info(self._language)
        elif held.msg_type in _EMPTY:
            content = {"status": "ok", **_EMPTY[held.msg_type]}
        else:
            return
        self.status("busy", held)
        self.reply(held, content)
        self.status("idle", held)

    def reply(self, held: Held, content: dict[str, Any]) -> None:
        """Send the reply of a request's own kind."""
        kind = held.msg_type.removesuffix("_request") + "_reply"
        front = self._fronts[held.channel]
        self.session.send(front, kind, content, parent=held.header, ident=held.idents)

    def decline(self, held: Held, reason: str) -> None:
        """Answer a request with an error that nobody is shown."""
        error = {"ename": "KernelNotReady", "evalue": reason, "traceback": []}
        self.status("busy", held)
        self.reply(held, {"status": "error", **error})
        self.status("idle", held)

    def refuse(self, held: Held, ename: str, evalue: str) -> None:
        """Answer a cell with an error, and show it under the cell."""
        error = {"ename": ename, "evalue": evalue, "traceback": [f"{ename}: {evalue}"]}
        self.hide_notice(held)
        if not held.silent:
            self.publish("error", error, held.header)
        self.reply(held, {"status": "error", "execution_count": 0, **error})
        self.status("idle", held)

    def refuse_over(self, held: Held, bound: Bound) -> None:
        """Tell the sender of a cell that the bound is hit."""
        self.refuse(
            held,
            "HeldError",
            f"This cell was not sent: too much already waits for the GPU (limit: {bound}). "
            "Interrupt the kernel to drop what waits, then run the cell again.",
        )

    # -- iopub -------------------------------------------------------------------------------

    def publish(self, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        """Send to all clients."""
        topic = f"kernel.relay.{kind}".encode()
        self.session.send(self._fronts["iopub"], kind, content, parent=parent, ident=topic)

    def say(self, text: str, parent: dict[str, Any]) -> None:
        """Show a line in the output of a cell."""
        self.publish("stream", line_of(text), parent)

    def status(self, state: str, held: Held) -> None:
        """Say that a request is worked on, or done."""
        self.publish("status", {"execution_state": state}, held.header)

    def welcome(self, topic: bytes) -> None:
        """Greet a new subscriber, as kernels do."""
        content = {"subscription": topic.decode(errors="replace")}
        message = self.session.msg("iopub_welcome", content)
        idents = [topic] if topic else []
        self._fronts["iopub"].send_multipart([*idents, *self.session.serialize(message)])

    def show_waiting(self, held: Held, notice: str) -> None:
        """Show in a cell's output what it waits for; a later notice replaces the first."""
        if held.kind is not Kind.CELL:
            return
        if held.display_id is None:
            self.status("busy", held)
        if held.silent or not notice:
            return
        kind = "update_display_data" if held.display_id else "display_data"
        held.display_id = held.display_id or uuid4().hex
        content = {
            "data": {"text/plain": notice},
            "metadata": {},
            "transient": {"display_id": held.display_id},
        }
        self.publish(kind, content, held.header)

    def hide_notice(self, held: Held) -> None:
        """Take the notice out of the cell's output again."""
        if held.display_id:
            self.publish("clear_output", {"wait": False}, held.header)
            held.display_id = None


def line_of(text: str) -> dict[str, Any]:
    """Content of a message that shows a line."""
    return {"name": "stderr", "text": text.rstrip("\n") + "\n"}


def _some_kernel_info(language: str) -> dict[str, Any]:
    """A valid reply for a kernel that never ran."""
    return {
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "gpu-share",
        "implementation_version": "1",
        "language_info": {
            "name": language or "python",
            "version": "",
            "mimetype": f"text/x-{language or 'python'}",
            "file_extension": ".py" if language in ("", "python") else "",
        },
        "banner": "",
        "help_links": [],
    }
