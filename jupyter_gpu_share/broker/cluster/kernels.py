"""The kernels of all users, and what their servers ask of them.

The registry is the only writer of what a kernel's row tells. It lives in memory alone: a broker
that begins anew makes it from the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from ..._threads import stopped, to_the_end
from ...allocations import Share
from ...engines.base import Exit, Starting, Waiting
from ...sentences import paragraph, say
from ...size import Size
from .kernel import Kernel
from .presence import Process
from .refusals import Refused
from .rows import Phase
from .ruling import Key, Wish
from .takeovers import TakeOvers

__all__ = ["Registry"]

#: Seconds that the answer about an end waits for the cluster.
_PATIENCE = 5.0


class Registry(TakeOvers):
    """All kernels, and what their servers ask of them. For one event loop. See :class:`.Table`."""

    def settle(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """The agent of a kernel that was taken over has answered: have its share.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.RELEASED and not kernel.busy:
            if kernel.objects.detachable:
                # It has settled; that it waits for its share was forgotten by an earlier broker.
                return self.take(process, kernel_id, attempt)
            kernel.phase = Phase.STARTING
        if kernel.phase is Phase.STARTING and kernel.up and not kernel.busy:
            if kernel.was_lent:
                self._check_limit(kernel, kernel.plan.size)
            self._begin(kernel, self._settle(kernel))
        return kernel

    async def _settle(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        if kernel.was_lent:
            await self._in_turn(kernel, report)
        settling = self._patiently(
            kernel, lambda: kernel.objects.settle(report), "share-looked-for"
        )
        await self._unless_it_ends(kernel, settling)
        kernel.was_lent = False
        self._note_up(kernel)

    async def release(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give the share of a kernel back that lives on.

        Raises
        ------
        NoKernel, Refused
        EngineError: it is still held, for certain.
        """
        kernel = self.own(process, kernel_id, attempt)
        await self._release_in_turn(kernel)
        return kernel

    async def _release_in_turn(self, kernel: Kernel) -> None:
        self._check_quiet(kernel)  # or it would wait here for as long as the kernel does
        async with kernel.lock:
            await self._release(kernel)

    def take(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Take the share again, which may have to be waited for. Idempotent.

        Raises
        ------
        NoKernel, Refused: a limit, or it has ended.
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase in (Phase.TAKING, Phase.READY):
            return kernel
        self._check_quiet(kernel)
        if kernel.lock.locked():
            raise Refused(say("share-being-changed"))
        self._check_limit(kernel, kernel.plan.size)
        kernel.phase, kernel.failed, kernel.vacated = Phase.TAKING, None, False
        self._begin(kernel, self._take(kernel), lives_on=True)
        return kernel

    def _check_limit(self, kernel: Kernel, size: Size) -> None:
        """Reserve a share for a kernel in place of what it has.

        Raises
        ------
        Refused
        """
        refusal = self._rules.reserve(Wish(kernel.key, size, kernel.groups))
        if refusal is not None:
            raise Refused(refusal)

    async def _take(self, kernel: Kernel) -> None:
        def report(news: Waiting | Starting) -> None:
            self._report(kernel, news)

        async with kernel.lock:
            await self._in_turn(kernel, report)
            await kernel.objects.take_back(report)
        self._note_up(kernel)

    async def withdraw(self, process: Process, kernel_id: str, attempt: str) -> Kernel:
        """Give up waiting for the share again. Idempotent.

        Raises
        ------
        NoKernel, Refused
        """
        kernel = self.own(process, kernel_id, attempt)
        if kernel.phase is Phase.TAKING:
            await stopped(kernel.work)
            if kernel.phase is Phase.TAKING:
                kernel.phase, kernel.reason, kernel.queue = Phase.RELEASED, "", None
                self._rules.gave_back(kernel.key)
            self.changed(kernel)
        return kernel

    async def planned(self, kernel: Kernel, size: Size) -> tuple[Share, bool] | None:
        """What a change of the size would give; None: it is not possible now, or not allowed."""
        if kernel.phase.over or kernel.busy or not kernel.up:
            return None
        if self._rules.why_not(Wish(kernel.key, size, kernel.groups)) is not None:
            return None
        return await kernel.objects.planned(size)

    async def change(
        self, process: Process, kernel_id: str, attempt: str, size: Size
    ) -> tuple[Kernel, Share]:
        """Hold another size, or have the next share be of it.

        Raises
        ------
        NoKernel, Refused
        EngineError: it holds what it held.
        """
        kernel = self.own(process, kernel_id, attempt)
        self._check_quiet(kernel)
        async with kernel.lock:
            self._check_quiet(kernel)
            if not kernel.objects.lent:
                self._check_limit(kernel, size)
            try:
                share = await to_the_end(kernel.objects.change(size))
            except BaseException:
                if not kernel.objects.lent and not kernel.phase.over:
                    self._rules.holds(kernel.key, kernel.plan.size)
                raise
            kernel.plan = replace(kernel.plan, size=size)
            if not kernel.objects.lent:
                self._rules.holds(kernel.key, size)
        self.changed(kernel)
        return kernel, share

    async def note_path(
        self, process: Process, kernel_id: str, attempt: str, path: str | None
    ) -> Kernel:
        """A kernel's notebook has another path now.

        Raises
        ------
        NoKernel, Refused, EngineError
        """
        kernel = self.own(process, kernel_id, attempt)
        await kernel.objects.note_path(path)
        kernel.plan = replace(kernel.plan, path=path)
        self.changed(kernel)
        return kernel

    async def end(self, process: Process, kernel_id: str, attempt: str) -> bool:
        """End a kernel and all that it has; whether that is done. Idempotent.

        Raises
        ------
        Refused: another process that is alive has it.
        """
        key = Key(process.user, process.server, kernel_id)
        kernel = self._kernels.get(key)
        if kernel is not None and kernel.attempt == attempt:
            if not kernel.phase.over:
                self._check_free(kernel, process)
            self._retire(kernel)
        for leaving in list(self._leaving.get(key, ())):
            if leaving.attempt == attempt and leaving.settling is not None:
                await asyncio.wait({leaving.settling}, timeout=_PATIENCE)
        return all(each.attempt != attempt for each in self._leaving.get(key, ()))

    def hear_groups(self, process: Process, groups: frozenset[str]) -> None:
        """The Hub's word about the groups of a server's user: limits go by the last one."""
        for kernel in self._servers.get((process.user, process.server), {}).values():
            kernel.groups = groups

    def hear_idle(self, process: Process, vacated: Collection[str]) -> None:
        """A process has named its idle kernels.

        Parameters
        ----------
        vacated: ids of those of which nothing is on the GPU, by its word.
        """
        for kernel in self._of(process):
            kernel.vacated = kernel.key.kernel_id in vacated

    def end_by_hand(self, kernel: Kernel, words: str) -> None:
        """An administrator ends a kernel; ``words`` say so to its user."""
        self._lose(kernel, words, Exit(-9, words))

    async def give_back_by_rule(self, kernel: Kernel) -> None:
        """An administrator's rule takes the share of an idle kernel, which lives on if it can.

        Raises
        ------
        Refused, EngineError
        """
        self._check_quiet(kernel)
        if kernel.objects.detachable and kernel.vacated:
            await self._release_in_turn(kernel)
        else:
            words = paragraph(say("did-not-leave-in-time"), say("run-notebook-again"))
            self._lose(kernel, words, Exit(-9, words))
