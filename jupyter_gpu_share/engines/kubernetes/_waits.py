"""What is told while a pod waits for its place: the scheduler's words, or that there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...allocations import QueuePosition
from ...sentences import paragraph, say
from ..base import Report, Waiting
from . import _failures as failures
from .backends import Backend, Object

__all__ = ["PATIENCE", "Wait"]

#: Seconds without a word about a pod after which that itself is told. Whoever waits looks at least
#: that often.
PATIENCE = 10.0


class Wait:
    """One pod's wait. Each reason is told once.

    Parameters
    ----------
    report: called with what is new.
    place: the kernel's place in the queue.
    autoscaler: what the autoscaler says of a pod; empty for nothing.
    """

    def __init__(
        self,
        backend: Backend,
        report: Report,
        place: Callable[[], QueuePosition],
        autoscaler: Callable[[Object], str] = lambda pod: "",
    ) -> None:
        self._backend = backend
        self._autoscaler = autoscaler
        self._report = report
        self._place = place
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + PATIENCE
        self._told: Waiting | None = None

    def tell(self, pod: Object) -> None:
        """Tell why the pod, as it is now, has no share yet."""
        reason = self._reason(pod)
        if reason is not None and (news := Waiting(self._place(), reason)) != self._told:
            self._told = news
            self._report(news)

    def _reason(self, pod: Object) -> str | None:
        node = pod["spec"].get("nodeName")
        if not node and (words := failures.unschedulable(pod)) is not None:
            why = self._backend.explain(words) or failures.no_place(words)
            return paragraph(why, self._autoscaler(pod))
        if self._clock() < self._end:
            return None
        if node:
            return say("gpu-not-told", node=node)
        return say(
            "scheduler-silent", scheduler=pod["spec"].get("schedulerName", "default-scheduler")
        )
