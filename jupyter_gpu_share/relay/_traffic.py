"""What passes between clients and a kernel, as far as the relay takes note of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ._activity import Activity, ActivityCounter
from ._events import RelayEvents
from ._held import Held
from ._rules import Kind
from ._stand import Stand
from ._subshells import Subshells
from ._unanswered import Unanswered
from ._wire import DELIMITER, parts

__all__ = ["Traffic"]

_log = logging.getLogger(__name__)

#: Of requests, those that somebody else answers where the kernel does not.
_ANSWERED_ELSEWHERE = frozenset({Kind.CELL, Kind.INTERRUPT, Kind.SHUTDOWN, Kind.UNKNOWN})
#: So many questions that a kernel does not answer are remembered.
_MOST_QUESTIONS = 1000


class Traffic:
    """Counts cells, and remembers what a kernel's process was told. Tells the owner.

    Attributes
    ----------
    activity: what clients do, as it was told last; may be read by any thread.
    subshells: those that the kernel's process has.
    unanswered: the cells that it was handed and has not answered.
    questions: the other requests of which the same is true, by id, without their content.
    last_cell: header of the last cell that a client sent, or ``{}``; it may be held still.
    handed: the same of the last one that the kernel's process got, None where it got none.
    """

    def __init__(self, stand: Stand, events: Callable[[], RelayEvents]) -> None:
        self.activity = Activity()
        self.subshells = Subshells()
        self.unanswered = Unanswered()
        self.questions: dict[str, Held] = {}
        self.last_cell: dict[str, Any] = {}
        self.handed: dict[str, Any] | None = None
        self._counter = ActivityCounter()
        self._changed = False
        self._stand = stand
        self._events = events

    def passed(self, frames: list[bytes], channel: str = "shell") -> None:
        """A message passed on shell or control; it may lack its buffers."""
        header, parent, _ = parts(frames, content=False)
        kind = str(header.get("msg_type", ""))
        if self.subshells.concerns(kind):
            self.subshells.note(frames)
        if kind.endswith("_reply"):
            if kind == "execute_reply":
                self.unanswered.answered(str(parent.get("msg_id")))
            else:
                self.questions.pop(str(parent.get("msg_id")), None)
            self._changed |= self._counter.reply(kind, parent.get("msg_id"))
            return
        if kind in ("comm_open", "comm_close") and self._stand.is_signed(frames):
            self._stand.is_quiet(kind, parts(frames)[2])
        if kind == "execute_request":
            # Only a cell that the kernel will accept counts: no other is ever answered.
            if not self._stand.is_signed(frames):
                return
            self.last_cell = header
            idents = frames[: frames.index(DELIMITER)]
            self.handed_over(Held("shell", frames, idents, header))
        elif kind.endswith("_request"):
            self._ask(Held(channel, [], frames[: frames.index(DELIMITER)], header), frames)
        self._changed |= self._counter.request(header)

    def _ask(self, question: Held, frames: list[bytes]) -> None:
        """The kernel is asked something; a question that it will not accept is none."""
        if question.kind in _ANSWERED_ELSEWHERE or not self._stand.is_signed(frames):
            return
        self.questions[str(question.header.get("msg_id"))] = question
        if len(self.questions) > _MOST_QUESTIONS:
            del self.questions[next(iter(self.questions))]

    def handed_over(self, cell: Held) -> None:
        """A cell is on its way to the kernel."""
        self.handed = cell.header
        self.unanswered.sent(cell)

    def held(self, header: dict[str, Any]) -> None:
        """A message waits for the kernel."""
        if header.get("msg_type") == "execute_request":
            self.last_cell = header
        self._changed |= self._counter.request(header)

    def refused(self, header: dict[str, Any]) -> None:
        """A cell was answered by the relay."""
        self.unanswered.answered(str(header.get("msg_id")))
        self._changed |= self._counter.reply("execute_reply", header.get("msg_id"))

    def new_process(self) -> None:
        """What comes now is of another process, as far as is known."""
        self.handed = None
        self.subshells.forget()
        self.unanswered.clear()
        self.questions.clear()

    def kernel_gone(self, held: set[str]) -> None:
        """Only the cells with these ids are still answered by somebody."""
        self.handed = None
        self.unanswered.clear()
        self.questions.clear()
        self._changed |= self._counter.lost(held)

    def tell(self) -> None:
        """Tell the owner if a count has changed, even where as many cells are pending as before."""
        if not self._changed:
            return
        self._changed = False
        activity = self.activity = self._counter.snapshot()
        self.inform(lambda events: events.activity(activity))

    def inform(self, event: Callable[[RelayEvents], None]) -> None:
        """Tell the owner something; what it makes of that is no concern of the relay's."""
        try:
            event(self._events())
        except Exception:
            _log.exception("The owner of a relay failed to take note of an event")
