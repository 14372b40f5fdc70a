"""Kernels that go from one process to another: to a server's next, or to the broker itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..._threads import to_the_end
from ...engines.base import Connection, Exit
from ...engines.kubernetes._parked import Parked
from ...engines.kubernetes.api import NotFound
from ...errors import GpuShareError
from ...sentences import paragraph, say, words_of
from .kernel import Kernel
from .lives import CameBack
from .owners import owner_of
from .presence import Process
from .refusals import Refused
from .rows import Phase
from .starts import Starts

__all__ = ["Parking", "TakeOvers"]

#: Has a kernel's agent take it off its GPU: by its connection, and the process whose it was.
Parking = Callable[[Connection, str], Awaitable[Parked]]


class TakeOvers(Starts):
    """How all kernels start and what goes on for them, and whose each is.

    Parameters
    ----------
    instance: this process, as agents know it.
    parking: None where no kernel may keep its variables in place.
    """

    def __init__(
        self, *args: Any, instance: str = "", parking: Parking | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._instance = instance
        self._parking = parking

    async def adopt(self, process: Process, kernel_id: str, attempt: str, before: str) -> Kernel:
        """Have a kernel of an earlier process of this very server be this process's.

        Raises
        ------
        NoKernel
        Refused: it has ended, or another process that is alive has it.
        EngineError
        """
        kernel = self.of_server(process, kernel_id)
        async with kernel.lock:
            if kernel.instance == process.instance and kernel.attempt == attempt:
                return kernel
            ended = kernel.phase.over and not kernel.objects.lost
            if self._kernels.get(kernel.key) is not kernel or ended or not kernel.up:
                raise Refused(say("not-to-be-taken-over"))
            if kernel.instance != before:
                raise Refused(say("taken-by-other-process"))
            self._check_free(kernel, process)
            if kernel.busy:
                raise Refused(say("share-being-taken"))
            return await to_the_end(self._adopt(kernel, process, attempt))

    async def _adopt(self, kernel: Kernel, process: Process, attempt: str) -> Kernel:
        owner = owner_of(process, attempt, kernel.groups, born=kernel.born)
        objects = self._make(owner, kernel.plan, kernel.objects.name)
        new = Kernel(kernel.key, attempt, kernel.plan, process.instance, objects, kernel.groups)
        new.born = kernel.born
        new.phase, new.vacated = Phase.STARTING, kernel.vacated
        new.was_lent = kernel.objects.lent or kernel.was_lent
        objects.also_of(kernel.objects)
        # From here on it hears of its pod, on which it is written whose it is now.
        self._stop_tasks(kernel)
        self._put(new)
        try:
            # The keys are in what it answers, and are let go of here.
            connection = await objects.adopt(kernel.instance, lambda news: self._report(new, news))
        except BaseException as error:
            if self._kernels.get(new.key) is new:
                # It may be written all the same, as answers are lost: it is lost to nobody else.
                kernel.objects.also_of(objects)
                self._put(kernel)
                self._goes_on(kernel, gone=isinstance(error, NotFound))
            raise
        if self._kernels.get(new.key) is not new:
            raise Refused(say("ended-meanwhile"))
        new.address, new.up = connection.ip, True
        self._spawn(kernel.objects.close())
        new.begun.set()
        new.watching = self._spawn(self._watch(new))
        self.changed(new)
        return new

    def _goes_on(self, kernel: Kernel, *, gone: bool) -> None:
        """Go on with a kernel that could not be taken over; ``gone``: its pod was not there."""
        kernel.watching = self._spawn(self._watch(kernel))
        kernel.objects.look()
        if gone and not kernel.objects.there:  # the other one has heard of it
            words = paragraph(say("ended-without-server"), say("run-notebook-again"))
            self._lose(kernel, words, Exit(-9, words))
        elif kernel.phase is Phase.RELEASED and not self.presence.alive(kernel.process):
            self._keep(kernel)

    async def _parked(self, kernel: Kernel) -> tuple[Kernel, str]:
        """See :class:`.Lives`. The kernel is this process's until a server takes it over."""
        if self._parking is None:
            return kernel, say("nothing-kept-in-place")
        before = kernel.instance
        process = Process(kernel.key.user, kernel.key.server, self._instance)

        async def adopt() -> Kernel:
            if self._kernels.get(kernel.key) is not kernel or kernel.phase.over:
                raise Refused(say("has-ended"))
            return await self._adopt(kernel, process, kernel.attempt)

        try:
            new = await self._while_stopped(kernel, adopt)
        except CameBack:
            raise
        except GpuShareError as error:
            return kernel, words_of(error)

        async def connection() -> Connection:
            return await new.objects.connection(new.address or "")

        async def give_back() -> None:
            await new.objects.recall()  # what holds the share
            await to_the_end(new.objects.give_back())

        async with new.lock:
            new.reason = say("leaves-its-gpu")
            try:
                found = await self._while_stopped(new, connection)
                parked = await self._parking(found, before)
                if not parked.vacated:
                    return new, parked.why
                await self._while_stopped(new, give_back)
            except GpuShareError as error:
                return new, words_of(error)
            new.reason = ""
        return new, ""
