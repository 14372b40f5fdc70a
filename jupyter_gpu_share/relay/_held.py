"""What the relay does in place of a kernel that is not there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import uuid4

from jupyter_client.session import Session

from ..size import format_bytes
from ._sockets import Socket

_log = logging.getLogger(__name__)

#: Messages that ask for the kernel itself: they are held, and wake it.
WANTING = frozenset({"execute_request", "comm_open", "comm_msg", "comm_close"})

#: Comms that a page opens by itself when it is loaded, to learn what there is: ipywidgets does.
#: They are held like the others, and wake nobody.
QUIET_TARGETS = frozenset({"jupyter.widget.control"})

_EMPTY: dict[str, dict[str, Any]] = {
    "complete_request": {"matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "inspect_request": {"found": False, "data": {}, "metadata": {}},
    "is_complete_request": {"status": "unknown"},
    "history_request": {"history": []},
    "comm_info_request": {"comms": {}},
}


class HoldMode(Enum):
    """What the relay does while no kernel is behind it."""

    #: The kernel will be here in a moment: everything waits for it.
    STARTING = "starting"
    #: It may take long: the relay answers what it can, and holds what needs the kernel.
    WAITING = "waiting"


@dataclass(frozen=True)
class HeldLimits:
    """How much is held for a kernel at most, in messages and in bytes."""

    messages: int = 1000
    bytes: int = 64 * 2**20


@dataclass
class Held:
    """A message that waits for the kernel.

    Attributes
    ----------
    frames: what the kernel will get.
    quiet: of a comm that a page opens by itself.
    """

    channel: str
    frames: list[bytes]
    idents: list[bytes]
    header: dict[str, Any]
    silent: bool = False
    restart: bool = False
    quiet: bool = False
    display_id: str | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.frames))

    @property
    def kind(self) -> str:
        return str(self.header.get("msg_type", ""))

    @property
    def wants(self) -> bool:
        """True where somebody asks for the kernel itself."""
        return self.kind in WANTING and not self.quiet


class Stand:
    """Answers for the kernel, on the fronts, in the thread that owns them."""

    def __init__(
        self, fronts: Mapping[str, Socket], key: bytes, signature_scheme: str, language: str
    ) -> None:
        self._fronts = fronts
        self._language = language
        self.session = Session(
            key=key, signature_scheme=signature_scheme, username="gpu-share", session=uuid4().hex
        )
        self.session.digest_history_size = 2000
        self.kernel_info: dict[str, Any] | None = None
        self._bad = 0
        self._quiet_comms: set[str] = set()

    def read(self, channel: str, frames: list[bytes]) -> Held | None:
        """Understand a client's message; None for one that is not signed with the kernel's key."""
        try:
            idents, rest = self.session.feed_identities(frames)
            message = self.session.deserialize(rest)
            header = message["header"]
            content = message["content"]
            silent, restart = bool(content.get("silent")), bool(content.get("restart"))
            quiet = self._is_quiet(header["msg_type"], content)
        except Exception as error:  # whatever a stranger sends must not end the relay
            self._bad += 1
            if self._bad & (self._bad - 1) == 0:
                _log.warning("Message %d on %s refused: %s", self._bad, channel, error)
            return None
        return Held(channel, frames, idents, dict(header), silent, restart, quiet)

    def _is_quiet(self, kind: str, content: Mapping[str, Any]) -> bool:
        comm = str(content.get("comm_id"))
        if kind == "comm_open" and content.get("target_name") in QUIET_TARGETS:
            self._quiet_comms.add(comm)
        quiet = kind in ("comm_open", "comm_msg", "comm_close") and comm in self._quiet_comms
        if kind == "comm_close":
            self._quiet_comms.discard(comm)
        return quiet

    # -- answers -----------------------------------------------------------------------------

    def answer(self, held: Held) -> bool:
        """Answer a request that needs no kernel. False where it needs one."""
        if held.kind == "kernel_info_request":
            content = self.kernel_info or _some_kernel_info(self._language)
        elif held.kind in _EMPTY:
            content = {"status": "ok", **_EMPTY[held.kind]}
        else:
            return False
        self.status("busy", held)
        self.reply(held, content)
        self.status("idle", held)
        return True

    def reply(self, held: Held, content: dict[str, Any]) -> None:
        """Send the reply of a request's own kind."""
        kind = held.kind.removesuffix("_request") + "_reply"
        front = self._fronts[held.channel]
        self.session.send(front, kind, content, parent=held.header, ident=held.idents)

    def refuse(self, held: Held, ename: str, evalue: str) -> None:
        """Answer with an error, and show it under the cell."""
        error = {"ename": ename, "evalue": evalue, "traceback": [f"{ename}: {evalue}"]}
        self.hide_notice(held)
        if held.kind == "execute_request":
            if not held.silent:
                self.publish("error", error, held.header)
            self.reply(held, {"status": "error", "execution_count": 0, **error})
        elif held.kind.endswith("_request"):
            self.reply(held, {"status": "error", **error})
        self.status("idle", held)

    def refuse_over(self, held: Held, limits: HeldLimits) -> None:
        """Tell the sender that the bound is hit."""
        bound = f"{limits.messages} messages and {format_bytes(limits.bytes)}"
        self.refuse(
            held,
            "HeldError",
            f"Not sent: the kernel has no GPU yet, and more than {bound} are not held for it. "
            "Wait for the kernel, or interrupt to clear what waits.",
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

    def show_notice(self, held: Held, notice: str) -> None:
        """Show in a cell's output what it waits for; a later notice replaces the first."""
        if held.kind != "execute_request" or held.silent or not notice:
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
