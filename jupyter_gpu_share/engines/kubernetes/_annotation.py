"""Style ``annotation``: KAI Scheduler counts a running pod by annotations, which are changed.

Giving a share back is one patch, and so is making it smaller. Taking it again, or more of it, is
not asked of anybody: KAI would let a GPU, and a queue, be counted for more than it has. So the room
is looked for here, the share is written, and both are looked at again; where others were faster the
share is given back before anything of it was used. Of two that write at once each sees the other
one on the GPU afterwards, as the API's reads are consistent. What a queue holds is counted by KAI,
which takes a moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..._threads import to_the_end
from ...allocations import QueuePosition, Share
from ...errors import EngineError
from ...size import Size, format_bytes
from ..base import Report, Waiting
from ._as_read import patch_as_read, until_unchanged
from ._cluster import Cluster, Object
from ._waits import Until, until_known
from ._writes import Writes
from .api import PODS, QUEUES, Conflict, Forbidden, NotFound
from .backends import LET_READ, KaiBackend, dig, trimmed
from .backends import kai_pods as kai
from .backends.kai_queues import parent_of, without_room

__all__ = ["Annotation", "Refused"]

#: Seconds between two looks for room, and at most after others were faster several times.
_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
#: So often a change is tried anew that somebody else's came in between.
_TRIES = 20
_MIB = 2**20
#: Queues above one another that are looked at.
_DEPTH = 10


@dataclass(frozen=True)
class Refused:
    """A share that could not be taken again.

    Attributes
    ----------
    reason: a sentence for the user.
    late: there was room, until somebody else took it at the same time.
    """

    reason: str
    late: bool = False


class Annotation:
    """The share of one kernel whose pod runs, as its annotations count it.

    Parameters
    ----------
    kernel: name of the kernel's pod, which has its place.
    writes: those to the pod.

    Attributes
    ----------
    lent: whether the share was given back, if perhaps not yet for sure.
    """

    def __init__(self, cluster: Cluster, kernel: str, writes: Writes) -> None:
        if not isinstance(cluster.backend, KaiBackend):
            raise EngineError("Style 'annotation' needs the backend kai.")
        self._cluster = cluster
        self._backend: KaiBackend = cluster.backend
        self._name = kernel
        self._writes = writes
        self._random = random.Random()  # noqa: S311 - jitter
        self.lent = False

    async def adopt(self) -> None:
        """See whether a kernel that is taken over has its share.

        Where its server ended while it took the share again, it has not; while it took more, it
        has what it had.
        """
        pod = await self._pod()
        if kai.unresized(pod):
            await self._change(kai.unresized)
        self.lent = kai.given_back(pod)
        if self.lent:
            await self.drop()

    async def drop(self) -> None:
        """Give the share back. The kernel's pod stays as it is. Idempotent.

        Where the cluster does not answer, that goes on in the background, and is not turned back.

        Raises
        ------
        EngineError: it is still held. It could not be taken again, as nobody would know whether
            there is room, or the change was refused.
        """
        lent, self.lent = self.lent, True
        try:
            await self._writes.insist(self._give_back, refusable=not lent)
        except EngineError:
            self.lent = False
            raise

    async def withdraw(self) -> None:
        """Hold nothing, whatever has come of an attempt to take the share again."""
        self.lent = True
        await self._writes.insist(self._give_back)

    async def _give_back(self) -> None:
        with suppress(NotFound):  # nothing counts for a pod that is gone
            pod = await self._pod()
            total = self._total(pod)
            if not kai.given_back(pod):
                await self._check_seen(pod)
            await self._change(lambda pod: kai.shrink(pod, total))

    async def _check_seen(self, pod: Object) -> None:
        """Refuse what could not be taken again, as nobody would know whether there is room."""
        await self._others(pod)
        if await self._queues(pod) is None:
            raise EngineError(
                "The share of a running kernel cannot be given back: this server may not see what "
                "its queue holds, so it could not be taken again. The administrator runs: "
                f"{LET_READ}"
            )

    async def retake(self, report: Report, until: Until) -> None:
        """Hold the share again, waiting until its GPU has room.

        What the cluster has not answered yet is waited for first.

        Raises
        ------
        EngineError: the pod has ended, or what others hold cannot be seen any more.
        """
        await until_known(self._writes, report, until)
        told: Waiting | None = None
        pause = _PAUSE
        while (refused := await self.grow()) is not None:
            news = Waiting(QueuePosition(1, 1), refused.reason)
            if news != told:
                told = news
                report(news)
            pause = min(pause * 2, _LONGEST_PAUSE) if refused.late else _PAUSE
            await self._wait(pause * self._random.uniform(0.5, 1.5), until)
            await until_known(self._writes, report, until)

    async def grow(self) -> Refused | None:
        """Take the share again if its GPU has room now; None if that is done.

        Whatever happens in between, the share is on its way back before this ends otherwise.

        Raises
        ------
        EngineError
        """
        for _ in range(_TRIES):
            pod = await self._pod()
            if not kai.given_back(pod):
                self.lent = False
                return None
            reason = await self._without_room(kai.original(pod), beside=pod)
            if reason is not None:
                # An answer may have been lost that said it was written.
                await self.withdraw()
                return Refused(reason)
            try:
                await self._patch(pod, kai.restore(pod))
                break
            except Conflict:
                continue
            except BaseException:
                await to_the_end(self.withdraw())
                raise
        else:
            return Refused("The kernel's pod is changed all the time; the share waits.")
        try:
            reason = await self._looked_twice(kai.original(pod))
            if reason is None:
                await self._change(lambda _: kai.settled())
                self.lent = False
                return None
        except BaseException:
            await to_the_end(self.withdraw())
            raise
        await self.withdraw()
        return Refused(reason, late=True)

    # -- another size ------------------------------------------------------------------------

    async def planned(self, held: Size, size: Size) -> Share | None:
        """The share that another size would be; None: its GPUs give no such one, or not now.

        Of one that was given back it is not asked whether there is room now.
        """
        pod = await self._pod()
        notes = self._resized(pod, held, size)
        if notes is None:
            return None
        larger = kai.noted(pod, notes)
        if not self.lent and await self._without_room(larger, beside=pod) is not None:
            return None
        return self._backend.granted(larger, (), self._cluster.facts)

    async def change(self, held: Size, size: Size, words: Object) -> None:
        """Hold another size. It is not more than the GPUs have at any time it is counted on.

        Parameters
        ----------
        words: annotations that are to be written when it is held.

        Raises
        ------
        EngineError: there is no such share, or no room for it any more. It holds what it held.
        """
        pod = await self._pod()
        notes = self._resized(pod, held, size)
        if notes is None:
            raise EngineError(f"Its GPU gives no {size} to a kernel that runs.")
        larger, total = kai.noted(pod, notes), self._total(pod)
        before, after = kai.amount_of(pod, total), kai.amount_of(larger, total)
        if self.lent or (before is not None and after is not None and after <= before):
            # Nothing is used of what goes: it is written however long that takes.
            await self._writes.insist(
                lambda: self._change(lambda _: {**notes, **words}), refusable=True
            )
            return
        if (reason := await self._without_room(larger, beside=pod)) is not None:
            raise EngineError(reason)
        unsettled = {**notes, **kai.resizing(pod)}
        was = {key: _noted(pod, key) for key in {**unsettled, **words}}
        try:
            await self._change(lambda _: unsettled)
            if (reason := await self._looked_twice(larger)) is not None:
                raise EngineError(f"Others were faster. {reason}")
            await self._change(lambda _: {**kai.settled(), **words})
        except BaseException:
            undo = self._writes.insist(lambda: self._change(lambda _: was))
            await to_the_end(undo)
            raise

    def _resized(self, pod: Object, held: Size, size: Size) -> dict[str, Any] | None:
        total = self._total(pod)
        amount = self._backend.amount_on(size, total) if size.count == held.count else None
        return kai.resized(pod, amount, total) if amount is not None else None

    # -- the GPU -----------------------------------------------------------------------------

    async def _without_room(self, pod: Object, *, beside: Object | None = None) -> str | None:
        """Why a pod cannot have what it counts for, in words; None: there is room.

        Parameters
        ----------
        beside: the pod as it counts now, where it is to count for more.
        """
        total = self._total(pod)
        wanted = kai.amount_of(pod, total)
        assert wanted is not None
        others = await self._others(pod)
        groups = kai.groups_of(pod)
        for group in groups:
            taken = kai.used(others, group, total, without=dig(pod, "metadata", "uid"))
            if taken + wanted > total:
                free = format_bytes(max(0, int(total - taken)) * _MIB)
                return (
                    f"The GPU of the kernel has {free} free now, its share is "
                    f"{format_bytes(int(wanted) * _MIB)}; others hold the rest."
                )
        queues = await self._queues(pod)
        if queues is None:
            return (
                "This server may not see what the kernel's queue holds. The administrator runs: "
                f"{LET_READ}"
            )
        counted = kai.amount_of(beside, total) if beside is not None else wanted
        more = max(Fraction(0), wanted - (counted or 0)) / total * len(groups)
        return without_room(queues, more, preemptible=self._backend.preemptible(pod))

    async def _queues(self, pod: Object) -> list[Object] | None:
        """The queue of a pod and those above it, as far as they are there; None: not to be seen."""
        found: list[Object] = []
        name = self._backend.queue_of(pod)
        while name and len(found) < _DEPTH:
            try:
                found.append(await self._cluster.api.get(QUEUES, name))
            except Forbidden:
                return None
            except NotFound:
                break
            name = parent_of(found[-1])
        return found

    async def _looked_twice(self, pod: Object) -> str | None:
        """Why there is no room for what has just been written; None: there is."""
        reason = await self._without_room(pod)
        if reason is None:
            # A round of the scheduler may go by what it saw before.
            await asyncio.sleep(self._backend.settle)
            reason = await self._without_room(pod)
        return reason

    async def _others(self, pod: Object) -> list[Object]:
        """All pods on the GPUs of a pod, itself among them, as they are at this moment.

        Raises
        ------
        EngineError: this server may not see them.
        """
        found: list[Object] = []
        for group in kai.groups_of(pod):
            for label in (f"{kai.GROUP}={group}", f"{kai.GROUP}/{group}={group}"):
                try:
                    found += await self._cluster.api.select(
                        PODS, None, lambda each: dict(trimmed(each)), labelSelector=label
                    )
                except Forbidden as error:
                    raise EngineError(
                        "The share of a running kernel cannot be given back: this server may not "
                        "see who else is on its GPU, so it could not be taken again. The "
                        f"administrator runs: {LET_READ}"
                    ) from error
        if not found:
            raise EngineError("The kernel's share cannot be changed: KAI has not put it on a GPU.")
        return found

    def _total(self, pod: Object) -> int:
        """MiB of each of the pod's GPUs."""
        total = self._backend.total(pod, self._cluster.facts)
        if not total:
            raise EngineError(
                "The share of a running kernel cannot be changed: how much memory its GPU has is "
                f"not known (label nvidia.com/gpu.memory of {dig(pod, 'spec', 'nodeName')})."
            )
        return total

    # -- the pod -----------------------------------------------------------------------------

    async def _pod(self) -> Object:
        return await self._cluster.api.get(PODS, self._name, self._cluster.namespace)

    async def _patch(self, pod: Object, notes: Object) -> None:
        await patch_as_read(self._cluster, PODS, pod, {"metadata": {"annotations": notes}})

    async def _change(self, notes: Callable[[Object], Object]) -> None:
        """Have annotations on the pod, whatever else changes of it meanwhile."""
        try:
            await until_unchanged(
                self._cluster, self._name, lambda pod: self._patch(pod, notes(pod)), tries=_TRIES
            )
        except Conflict as error:
            raise EngineError("The kernel's pod is changed all the time; try again.") from error
        except ValueError as error:
            raise EngineError(f"The kernel's share cannot be given back: {error}.") from error

    async def _wait(self, seconds: float, until: Until) -> None:
        """Let time pass, unless the pod ends meanwhile."""
        ended = asyncio.ensure_future(until(lambda: None))
        try:
            await asyncio.wait({ended}, timeout=seconds)
            if ended.done():
                ended.result()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)


def _noted(pod: Object, key: str) -> Any:
    """An annotation of anybody's; None where the pod has it not."""
    return dig(pod, "metadata", "annotations", key)
