"""What is told while a pod waits for its place: the scheduler's words, or that there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...allocations import QueuePosition
from ...sentences import paragraph, say
from ..base import Report, Starting, Waiting
from . import _failures as failures
from . import _kueue as kueue
from ._writes import Writes
from .backends import Backend, Object

__all__ = ["PATIENCE", "Told", "Until", "Wait", "until_known"]

#: Waits until a look finds something, looking at every change of a kernel's objects.
Until = Callable[[Callable[[], Any]], Awaitable[Any]]

#: Seconds without a word about a pod after which that itself is told. Whoever waits looks at least
#: that often.
PATIENCE = 10.0


class Wait:
    """One pod's wait. Each reason is told once.

    Parameters
    ----------
    report: called with what is new.
    place: the kernel's place in the queue.
    said: what the Events of a pod say; empty for nothing.
    patient: nothing is told of a wait that is over soon.
    """

    def __init__(
        self,
        backend: Backend,
        report: Report,
        place: Callable[[], QueuePosition],
        said: Callable[[Object], str] = lambda pod: "",
        *,
        patient: bool = False,
    ) -> None:
        self._backend = backend
        self._said = said
        self._report = report
        self._place = place
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + PATIENCE
        self._patient = patient
        self._told: Waiting | None = None

    def tell(self, pod: Object) -> None:
        """Tell why the pod, as it is now, has no share yet."""
        reason = self._reason(pod)
        if reason is not None and (news := Waiting(self._place(), reason)) != self._told:
            self._told = news
            self._report(news)

    def _reason(self, pod: Object) -> str | None:
        node = pod["spec"].get("nodeName")
        if self._patient and self._clock() < self._end:
            return None
        if kueue.gated(pod):  # the scheduler has only to say that it has not seen it
            told = self._said(pod)
            return told or (None if self._clock() < self._end else _silent(pod))
        if not node and (words := failures.unschedulable(pod)) is not None:
            why = None if failures.for_want_of_more(words) else self._backend.explain(words)
            why = why or failures.no_place(words)
            return paragraph(why, self._said(pod))
        if self._clock() < self._end:
            return None
        if node:
            return say("gpu-not-told", node=node)
        return say(
            "scheduler-silent", scheduler=pod["spec"].get("schedulerName", "default-scheduler")
        )


class Told:
    """Tells what a wait is for, and keeps it for the case that it was too long."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = ""

    def __call__(self, news: Waiting | Starting) -> None:
        self._last = news.reason if isinstance(news, Waiting) else news.notice
        self._report(news)

    def too_long(self, sentence: str) -> str:
        """That the administrator lets none wait longer, and what it was for at last."""
        return paragraph(say(sentence), self._last)


def _silent(pod: Object) -> str:
    """That Kueue has said nothing: there may be no such queue, which it tells nobody."""
    return say("kueue-silent", queue=kueue.queue_name(pod))


async def until_known(writes: Writes, report: Report, until: Until) -> None:
    """Wait until the cluster has told what became of each write, and tell of that wait."""
    if writes.pending:
        report(Waiting(QueuePosition(1, 1), say("outcome-unknown")))
        await until(lambda: None if writes.pending else True)
