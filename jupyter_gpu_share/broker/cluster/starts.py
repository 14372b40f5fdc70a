"""How all users' kernels start, and how a broker that begins anew goes on with those there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from ..._threads import stopped, to_the_end, within
from ...engines.base import Exit, Report, Starting, Waiting
from ...engines.kubernetes._objects import KernelPlan, Owner
from ...errors import KernelStartError
from ...sentences import paragraph, say, words_of
from .kernel import Kernel, Unfinished
from .lives import Lives
from .losses import Loss
from .owners import asked_of, born_of, number_of, owner_of
from .presence import RETURN, Process
from .refusals import Refused
from .rows import Failure, Phase
from .ruling import Key, Wish

__all__ = ["Starts"]

_log = logging.getLogger(__name__)

#: Seconds that an answer waits for what the cluster was asked to write: the row tells the rest.
_BEGUN = 1.0
#: Seconds after which a start says that it waits for the end of the last pod.
_SOON = 1.0
#: Rows of one user, those of ended kernels among them.
_MOST_ROWS = 500


class Starts(Lives):
    """The table, whose kernels start, and are found in the cluster. For one event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: When each user was made, by the Hub's last word.
        self._born: dict[str, str] = {}

    async def start(
        self,
        process: Process,
        groups: frozenset[str],
        attempt: str,
        plan: KernelPlan,
        number: int | None = None,
    ) -> tuple[Kernel, bool]:
        """Start a kernel; whether it is a new start. Its objects are written when this returns, or
        are about to be where the cluster takes long: what becomes of that, its row tells.

        The same attempt again is the same start, whatever became of the first answer.

        Parameters
        ----------
        number: which of the process's starts it is, as it says.

        Raises
        ------
        Refused: a limit, or another process of the server has this kernel.
        """
        key = Key(process.user, process.server, plan.kernel_id)
        kernel = self._kernels.get(key)
        if kernel is not None and kernel.attempt == attempt and kernel.instance == process.instance:
            await self._wait_until_begun(kernel)
            return kernel, False
        if not self.presence.alive(process):
            raise Refused("This process has said that it ends; it starts nothing any more.")
        if kernel is not None and not kernel.phase.over:
            self._check_free(kernel, process)
        if kernel is None and len(self.of_user(key.user)) >= _MOST_ROWS:
            raise Refused(say("too-many-kernels"))
        since = None
        if kernel is not None and kernel.failed is not None and kernel.failed.kind == "keys":
            since = kernel.asked  # the same start, of which an earlier broker had the keys
        asked = since or datetime.now(timezone.utc)
        # No await from here to where it is in the registry: two at once never pass a limit.
        wish = Wish(key, plan.size, groups, since, process.instance, number)
        refusal = self._rules.reserve(wish, anew=kernel is not None)
        if refusal is not None:
            raise Refused(refusal)
        if kernel is not None:
            self._retire(kernel, replaced=True)
        try:
            born = self._born.get(key.user, "")
            objects = self._make(owner_of(process, attempt, groups, asked, number, born), plan)
        except BaseException:
            self._rules.drop(key)
            raise
        new = Kernel(key, attempt, plan, process.instance, objects, groups, asked, born)
        self._put(new)
        new.plan = replace(plan, keys=None)
        self._begin(new, self._start(new))
        await self._wait_until_begun(new)
        return new, True

    def _check_free(self, kernel: Kernel, process: Process) -> None:
        """Refuse what another process has that is heard of.

        Raises
        ------
        Refused
        """
        other = kernel.instance != process.instance
        if other and self.presence.holds(kernel.process):
            raise Refused(say("runs-in-other-process"))

    async def _wait_until_begun(self, kernel: Kernel) -> None:
        with suppress(asyncio.TimeoutError):
            await within(_BEGUN, kernel.begun.wait())

    async def _start(self, kernel: Kernel) -> None:
        await self._wait_for_earlier(kernel)
        await kernel.objects.make(held_back=self._order.active)
        kernel.begun.set()
        await self._come_up(kernel)

    async def _come_up(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        await self._in_turn(kernel, report)
        kernel.address = await kernel.objects.come_up(report)
        self._note_up(kernel)

    async def _unless_it_ends(self, kernel: Kernel, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something that nobody does any more when the pod has ended.

        Raises
        ------
        KernelStartError: it has.
        """
        doing = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(kernel.objects.ended())
        try:
            await asyncio.wait({doing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise KernelStartError(paragraph(say("has-ended"), ended.result().reason))
            await doing
        finally:
            # What was held is held until the work has undone it.
            await to_the_end(stopped(doing, ended))

    def _note_up(self, kernel: Kernel) -> None:
        kernel.up = True
        kernel.phase, kernel.reason, kernel.queue = Phase.READY, "", None
        if kernel.objects.lent:
            kernel.phase = Phase.RELEASED
            self._rules.gave_back(kernel.key)
        else:
            self._rules.holds(kernel.key)

    async def _wait_for_earlier(self, kernel: Kernel) -> None:
        """Wait until the cluster has told that earlier pods of the kernel are to end."""
        for earlier in list(self._leaving.get(kernel.key, ())):
            ending = earlier.settling
            assert ending is not None  # it is set where it was taken out of the registry
            await asyncio.wait({ending}, timeout=_SOON)
            if not ending.done():
                kernel.reason = say("last-pod-not-known")
                self.changed(kernel)
                await asyncio.wait({ending})

    def restore(
        self,
        key: Key,
        attempt: str,
        plan: KernelPlan,
        owner: Owner,
        groups: frozenset[str],
        name: str,
        *,
        ran: bool = False,
    ) -> Kernel:
        """Go on with a kernel that is in the cluster; its process has some time to come back.

        Parameters
        ----------
        name: of its pod.
        ran: its container runs, or did: if it has ended, that is no start that failed.
        """
        objects = self._make(owner, plan, name)
        asked = asked_of(owner)
        born = born_of(owner)
        kernel = Kernel(key, attempt, plan, owner.instance, objects, groups, asked, born)
        self._put(kernel)
        wish = Wish(key, plan.size, groups, asked, owner.instance, number_of(owner))
        self._rules.reserve(wish)  # what is there is there
        self.presence.expect(kernel.process)
        kernel.up = ran
        objects.look()
        self._begin(kernel, self._resume(kernel))
        return kernel

    def losses(self, now: datetime) -> list[Loss]:
        """What the ends of kernels have cost, for the next broker to tell."""
        clock = asyncio.get_running_loop().time
        return [
            Loss(
                key=each.key,
                attempt=each.attempt,
                instance=each.instance,
                born=each.born,
                size=each.plan.size,
                kernel_name=each.plan.kernel_name,
                path=each.plan.path,
                words=each.lost_work,
                code=each.ended.code if each.ended is not None else -1,
                until=now + timedelta(seconds=max(each.later.when() - clock(), 0.0)),
            )
            for each in self
            if each.lost_work and each.later is not None
        ]

    def restore_loss(self, loss: Loss, now: datetime) -> None:
        """Tell what an earlier broker would have told of a kernel that has ended.

        Called after :meth:`restore`: a kernel that is there is told of instead.
        """
        if self.get(loss.key) is not None:
            return
        process = Process(loss.key.user, loss.key.server, loss.instance)
        objects = self._make(
            owner_of(process, loss.attempt, frozenset(), born=loss.born), loss.plan
        )
        kernel = Kernel(loss.key, loss.attempt, loss.plan, loss.instance, objects, born=loss.born)
        kernel.phase, kernel.ended = Phase.ENDED, Exit(loss.code, loss.words)
        kernel.reason = kernel.lost_work = loss.words
        kernel.begun.set()
        self._put(kernel)
        kernel.later = asyncio.get_running_loop().call_later(
            (loss.until - now) / timedelta(seconds=1), self._retire, kernel
        )

    async def _resume(self, kernel: Kernel) -> None:
        try:
            up = await self._recalled(kernel)
        except Unfinished as error:
            self._without_keys(kernel, Failure("keys", words_of(error)))
            return
        if not up and kernel.objects.held_back:
            self._order.kept_back(kernel.key)
        kernel.begun.set()
        if kernel.phase.over:
            return
        if up:
            kernel.address = kernel.objects.address
            self._note_up(kernel)
        else:
            kernel.up = False
            await self._come_up(kernel)

    def _without_keys(self, kernel: Kernel, failure: Failure) -> None:
        """Have the same start be asked for anew, with new keys: until then its place is kept."""

        def over() -> None:
            if self._kernels.get(kernel.key) is kernel:
                self._rules.drop(kernel.key)

        self._order.kept_back(kernel.key)
        self._failed(kernel, failure, lives_on=False, waits_on=True)
        kernel.later = asyncio.get_running_loop().call_later(RETURN, over)

    async def _recalled(self, kernel: Kernel) -> bool:
        """Find out how far a kernel is."""
        return await self._patiently(kernel, kernel.objects.recall, "broker-reads-on")

    async def _in_turn(self, kernel: Kernel, report: Report) -> None:
        """Wait until it is the kernel's turn to be seen by the scheduler, or until it has ended."""
        if not kernel.plan.size.is_none:
            await self._unless_it_ends(kernel, self._order.wait(kernel.key, report))

    def hear_user(self, user: str, born: str) -> None:
        """A proven user asks: what an earlier user of that name has left is none of theirs.

        Parameters
        ----------
        born: see :class:`Caller <.callers.Caller>`; empty says nothing.
        """
        if not born or self._born.get(user) == born:
            return
        self._born[user] = born
        for kernel in self.of_user(user):
            # As texts, the later is the larger. A token of the earlier user may be known for a
            # while: it ends nothing of the next one's, and what it starts is the earlier one's.
            if kernel.born and kernel.born < born:
                _log.warning("A kernel of an earlier user %s ends", user)
                self._retire(kernel)
