"""What the relay does with clients' messages while they do not reach a kernel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from ._held import Held, HeldLimits, HeldMessages
from ._rules import HoldMode, Kind, Rule, rule_for, why_not
from ._stand import Stand
from ._traffic import Traffic

__all__ = ["Clients"]

_log = logging.getLogger(__name__)

#: Seconds for which dropped changes of widgets are counted into one line.
_ONE_LINE = 1.0


class Clients:
    """Deals with each message by the table of ``_rules``. Belongs to the relay's thread.

    Parameters
    ----------
    live: whether a kernel is connected and paused.
    pass_on: hands a message to that kernel, by channel and frames.
    say: shows a line under the last cell.

    Attributes
    ----------
    held: what waits for a kernel.
    """

    def __init__(
        self,
        stand: Stand,
        traffic: Traffic,
        limits: HeldLimits,
        *,
        live: Callable[[], bool],
        pass_on: Callable[[str, list[bytes]], object],
        say: Callable[[str], None],
    ) -> None:
        self.held = HeldMessages(limits)
        self._stand = stand
        self._traffic = traffic
        self._limits = limits
        self._live = live
        self._pass_on = pass_on
        self._say = say
        self._mode = HoldMode.STARTING
        self._notice = ""
        self._epoch = 0
        self._dropped_comms = 0
        self._say_at: float | None = None

    def take(self, message: Held) -> None:
        """A client sent a message."""
        self._deal(message, rule_for(message.kind, self._mode, live=self._live()))

    def _deal(self, message: Held, rule: Rule) -> None:
        if rule is Rule.HOLD:
            self._hold(message)
        elif rule is Rule.ANSWER:
            self._stand.answer(message)
        elif rule is Rule.REFUSE:
            self._stand.decline(message, why_not(self._mode, live=self._live()))
        elif rule is Rule.TO_KERNEL:
            self._pass_on(message.channel, message.frames)
        elif rule is Rule.INTERRUPT:
            self._stand.reply(message, {"status": "ok"})
            self._traffic.inform(lambda events: events.interrupted(message.header))
        elif rule is Rule.DROP:
            _log.debug("A client's %r is dropped", message.msg_type)
        else:
            if rule is Rule.END_TOO:
                self._pass_on(message.channel, message.frames)
            else:
                self._stand.reply(message, {"status": "ok", "restart": message.restart})
            self._traffic.inform(lambda events: events.shutdown(message.restart, message.header))

    def answer_instead(self, questions: Iterable[Held]) -> None:
        """Answer what a kernel was asked that has gone."""
        for each in questions:
            if rule_for(each.kind, HoldMode.WAITING, live=False) is Rule.ANSWER:
                self._stand.answer(each)
            else:
                self._stand.decline(each, why_not(self._mode, live=False))

    def _hold(self, message: Held) -> None:
        dropped = self.held.add(message)
        for each in dropped:
            self._drop(each)
        if message in dropped:
            return
        self._traffic.held(message.header)
        self._traffic.tell()
        if self._mode is HoldMode.WAITING:
            self._stand.show_waiting(message, self._notice)
        if message.wants:
            epoch = self._epoch
            self._traffic.inform(lambda events: events.wanted(epoch))

    def _drop(self, message: Held) -> None:
        """A message is not held because of the bound; who sent it is told."""
        if message.kind is Kind.CELL:
            self._stand.refuse_over(message, self._limits.of(message.kind))
        elif message.kind is Kind.COMM:
            self._dropped_comms += 1
            if self._say_at is None:
                self._say_at = time.monotonic() + _ONE_LINE
        else:
            self._stand.answer(message)

    def reconsider(self) -> None:
        """Judge anew what is held: whether a kernel is there, or the mode, has changed."""
        live = self._live()
        judged = [(held, rule_for(held.kind, self._mode, live=live)) for held in self.held.take()]
        self.held.put(held for held, rule in judged if rule is Rule.HOLD)
        for held, rule in judged:
            if rule is not Rule.HOLD:
                self._deal(held, rule)

    def set_mode(self, mode: HoldMode, notice: str, *, reached: bool) -> None:
        """Behave like that from now on; ``reached`` says that clients reach a kernel."""
        changed = mode is not self._mode or notice != self._notice
        self._mode, self._notice = mode, notice
        if not changed or reached:
            return
        self.reconsider()
        if notice:
            for message in self.held:
                self._stand.show_waiting(message, notice)

    def discard(self, ename: str, evalue: str) -> int:
        """Hold nothing any more; how many cells and changes of widgets there were."""
        self._epoch += 1
        self._say_dropped()
        dropped = self.held.take()
        for message in dropped:
            if message.kind is Kind.CELL:
                self._stand.refuse(message, ename, evalue)
                self._traffic.refused(message.header)
            elif message.kind is not Kind.COMM:
                self._stand.answer(message)
        if comms := sum(message.kind is Kind.COMM for message in dropped):
            by = " by the interrupt" if ename == "KeyboardInterrupt" else ""
            self._say(f"{_changes(comms)} dropped{by}; the page and the kernel may differ.")
        return sum(message.wants for message in dropped)

    # -- what is told later ------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When :meth:`tick` has something to do, in seconds of ``time.monotonic``."""
        return self._say_at

    def tick(self) -> None:
        """Do what is due."""
        if self._say_at is not None and time.monotonic() >= self._say_at:
            self._say_dropped()

    def _say_dropped(self) -> None:
        number, self._dropped_comms, self._say_at = self._dropped_comms, 0, None
        if number:
            self._say(
                f"{_changes(number)} dropped: too much already waits for the GPU (limit: "
                f"{self._limits.comms}). The page and the kernel may differ."
            )


def _changes(number: int) -> str:
    return "1 change of a widget was" if number == 1 else f"{number} changes of widgets were"
