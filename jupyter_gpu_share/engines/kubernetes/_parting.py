"""That somebody ends a kernel's pod, and how long it has: time to save what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..base import Removal
from . import _failures as failures
from ._cluster import Object
from .backends import dig

__all__ = ["Parting"]

#: Seconds of the grace, and its part at most, in which the kernel is to end after all.
_RESERVE, _MOST_RESERVED = 8.0, 0.25


class Parting:
    """One pod's end by others.

    It waits for whoever saves the kernel's variables, if there is somebody who listens. Nobody
    does while the kernel starts: then the pod ends at once.

    Parameters
    ----------
    grace: seconds that a pod has that is deleted, where it does not say so itself.
    reclaimed: why the scheduler may have deleted a pod, in words; nothing where that is not known.
    leave: told once, when nothing is to be saved.
    """

    def __init__(
        self,
        grace: Callable[[], float],
        reclaimed: Callable[[Object], str | None],
        leave: Callable[[], None],
    ) -> None:
        self._grace = grace
        self._reclaimed = reclaimed
        self._leave = leave
        self._reason = ""
        self._until: float | None = None  # by the loop's clock; None: it is not to end
        self._known = False  # the cluster has said how long it has
        self._begun = asyncio.Event()
        self._listeners = 0
        self._left = False

    def note(self, pod: Object | None, *, told: float | None = None) -> None:
        """The pod may be on its way out.

        Parameters
        ----------
        pod: as the cluster has it; None where it does not.
        told: the pod is to end, whatever the cluster says of it: seconds that it has where the
            cluster says none.
        """
        deleted = pod is not None and dig(pod, "metadata", "deletionTimestamp") is not None
        if deleted:
            grace = dig(pod, "metadata", "deletionGracePeriodSeconds")
            until = self._end_after(self._grace() if grace is None else float(grace))
            # Others may make it shorter. What was only guessed before counts no more.
            self._until = min(until, self._until or until) if self._known else until
            self._known = True
        elif told is None:
            return
        elif self._until is None:
            self._until = self._end_after(told)
        if pod is not None:
            self._reason = failures.removal_of(pod, by_scheduler=bool(self._reclaimed(pod)))
        elif not self._reason:
            self._reason = failures.removal_of({}, by_scheduler=False)
        self._begun.set()
        if not self._listeners:
            self.let_go()

    @staticmethod
    def _end_after(grace: float) -> float:
        # The cluster's clock is not this machine's: its time of the end says nothing here.
        return asyncio.get_running_loop().time() + grace - min(_RESERVE, _MOST_RESERVED * grace)

    @property
    def removal(self) -> Removal | None:
        """What is known of it now; None where the pod is not to end."""
        if self._until is None:
            return None
        left = self._until - asyncio.get_running_loop().time()
        return Removal(self._reason, max(0.0, left))

    async def wait(self) -> Removal:
        """Wait until somebody ends the pod; whoever waits lets go of it in the end, or ends it."""
        self._listeners += 1
        try:
            await self._begun.wait()
        except BaseException:
            self._listeners -= 1
            raise
        removal = self.removal
        assert removal is not None
        return removal

    def let_go(self) -> None:
        """Nothing is to be saved, or nothing can be: the kernel ends in order."""
        if self._until is not None and not self._left:
            self._left = True
            self._leave()
