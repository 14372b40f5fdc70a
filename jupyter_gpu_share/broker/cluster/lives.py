"""What goes on for the kernels of all users, and how they end."""

from __future__ import annotations

import asyncio
import logging
import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ..._threads import stopped, to_the_end
from ...engines.base import Exit, Starting, Waiting
from ...engines.kubernetes._writes import unsure
from ...engines.kubernetes.api import Invalid, KubernetesError, NotFound
from ...errors import GpuShareError
from ...sentences import paragraph, say, words_of
from .kernel import Kernel
from .presence import Fate, Process, fate_of
from .refusals import Refused
from .rows import Failure, Phase, failure_of
from .table import Table

__all__ = ["CameBack", "Lives"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that the pod of a server that is gone has to end: with those in which the server may come
#: back, its share is free within half a minute.
_END_GRACE = 8
#: Seconds between two tries of what the cluster does not let be done: doubled up to the longest.
_AGAIN, _LONGEST = 1.0, 15.0
#: Seconds for which the cluster may refuse what takes a share from a kernel without a server. Then
#: the kernel ends with it.
_REFUSALS = 10.0


class CameBack(GpuShareError):  # noqa: N818
    """A server is there again whose kernel was about to lose its share."""


class Lives(Table):
    """The table, with the tasks of its kernels. :meth:`close` ends all that was begun."""

    def _begin(
        self, kernel: Kernel, work: Coroutine[Any, Any, None], *, lives_on: bool = False
    ) -> None:
        """Do what takes long for a kernel. How it ends is told by the kernel's row.

        Parameters
        ----------
        lives_on: the kernel goes on if nothing comes of it; else its start has failed.
        """
        kernel.work = self._spawn(self._run_work(kernel, work, lives_on))
        if kernel.watching is None:
            kernel.watching = self._spawn(self._watch(kernel))
        self.changed(kernel)

    async def _run_work(
        self, kernel: Kernel, work: Coroutine[Any, Any, None], lives_on: bool
    ) -> None:
        try:
            await work
        except GpuShareError as error:
            self._failed(kernel, failure_of(error), lives_on=lives_on)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("A kernel met an error of the broker's own")
            words = say("broker-failed")
            self._failed(kernel, Failure("engine", words), lives_on=lives_on)
        finally:
            kernel.begun.set()
            self.changed(kernel)

    def _failed(
        self, kernel: Kernel, failure: Failure, *, lives_on: bool, waits_on: bool = False
    ) -> None:
        """Note what a start, or taking the share again, came to.

        Parameters
        ----------
        waits_on: what is reserved for the kernel stays so.
        """
        if kernel.phase.over:
            return
        kernel.failed, kernel.queue, kernel.reason = failure, None, failure.detail
        if lives_on and kernel.objects.there:
            # It lives on without the share that it could not have.
            lent = kernel.objects.lent
            kernel.phase = Phase.RELEASED if lent else Phase.READY
            if lent:
                self._rules.gave_back(kernel.key)
            return
        kernel.phase = Phase.FAILED
        if not waits_on:
            self._rules.drop(kernel.key)
        self._spawn(self._delete(kernel))

    async def _watch(self, kernel: Kernel) -> None:
        """Note the end of a kernel's pod by others, and that it comes."""
        removal = asyncio.ensure_future(kernel.objects.removed())
        ended = asyncio.ensure_future(kernel.objects.ended())
        try:
            await asyncio.wait({removal, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.changed(kernel)
            how = await ended
        finally:
            for task in (removal, ended):
                task.cancel()
            await asyncio.gather(removal, ended, return_exceptions=True)
        if kernel.busy and not kernel.up:
            return  # the start that is under way tells it
        if kernel.phase.over:
            return
        told = kernel.objects.lost or self.presence.hears(kernel.process)
        kernel.unheard = kernel.up and not told
        if kernel.unheard and not self.presence.expected(kernel.process):
            self._lose_unheard(kernel, how)
            return
        kernel.phase, kernel.ended, kernel.queue = Phase.ENDED, how, None
        kernel.reason = how.reason
        self._rules.drop(kernel.key)
        self.changed(kernel)

    def _lose_unheard(self, kernel: Kernel, how: Exit) -> None:
        """Have the next process of its server tell how a kernel ended."""
        words = paragraph(say("ended-without-server"), how.reason, say("run-notebook-again"))
        self._lose(kernel, words, how)

    def heard_all(self, process: Process) -> None:
        """A process has been told all of its rows, or will be."""
        for kernel in self._of(process):
            kernel.unheard = False

    def _report(self, kernel: Kernel, news: Waiting | Starting) -> None:
        if kernel.phase.over:
            return
        if isinstance(news, Waiting):
            if kernel.phase is not Phase.TAKING:
                kernel.phase = Phase.WAITING
            kernel.reason, kernel.queue = news.reason, news.queue
        else:
            if kernel.phase is not Phase.TAKING:
                kernel.phase = Phase.STARTING
            kernel.reason, kernel.queue = news.notice, None
        self.changed(kernel)

    def _of(self, process: Process) -> list[Kernel]:
        servers = self._servers.get((process.user, process.server), {})
        return [each for each in servers.values() if each.instance == process.instance]

    def _gone(self, process: Process) -> None:
        """A process is gone: nobody holds a share for it."""
        self.proofs.forget(process)
        kernels = self._of(process)
        if kernels:
            _log.info("A server's process of %s is gone; it had %d", process.user, len(kernels))
        for kernel in kernels:
            self._spawn(self._orphaned(kernel))

    async def _orphaned(self, kernel: Kernel) -> None:
        if kernel.work is not None and kernel.busy and kernel.up:
            if kernel.phase is Phase.STARTING and not kernel.was_lent:
                await asyncio.wait({kernel.work})  # its share is there, and is found soon
            else:  # nobody waits for it any more
                await stopped(kernel.work)
                if not kernel.phase.over:
                    kernel.phase, kernel.reason, kernel.queue = Phase.RELEASED, "", None
                    self._rules.gave_back(kernel.key)  # who comes back asks again
                    self.changed(kernel)
        async with kernel.lock:
            if self._kernels.get(kernel.key) is not kernel or kernel.lost_work:
                return
            if self.presence.alive(kernel.process):
                return
            objects = kernel.objects
            # What was taken over is known to its objects when its agent has answered.
            known = kernel.phase is not Phase.STARTING
            fate = fate_of(
                up=kernel.up,
                lent=objects.lent or (kernel.was_lent and not objects.detachable),
                ended=kernel.phase.over,
                detachable=objects.detachable or not known,
                vacated=known and (kernel.vacated or kernel.was_lent),
            )
            if fate is Fate.GIVE_BACK:
                try:
                    await self._while_stopped(kernel, lambda: self._release(kernel))
                    fate = Fate.KEEP
                except CameBack:
                    return
                except GpuShareError as error:
                    _log.warning("A share could not be given back: %s", error)
                    fate = Fate.END
            why = ""
            if fate is Fate.PARK:
                try:
                    kernel, why = await self._parked(kernel)
                except CameBack:
                    return
                fate = Fate.END if why else Fate.KEEP
        if fate is Fate.DELETE and kernel.unheard and kernel.ended is not None:
            self._lose_unheard(kernel, kernel.ended)
        elif fate is Fate.DELETE:
            self._retire(kernel)
        elif fate is Fate.KEEP:
            if kernel.phase.over:
                if not kernel.lost_work:  # another process of its server has it, and tells of it
                    self._retire(kernel)
            elif self._kernels.get(kernel.key) is kernel and not self.presence.alive(
                kernel.process
            ):
                kernel.phase = Phase.RELEASED
                self._rules.gave_back(kernel.key)
                self._keep(kernel)
        elif not kernel.lost_work:  # else somebody has ended it, and said why
            words = paragraph(say("ended-with-server"), why, say("run-notebook-again"))
            self._lose(kernel, words, Exit(-15, words))

    async def _patiently(
        self,
        kernel: Kernel,
        work: Callable[[], Awaitable[T]],
        doing: str,
        refusals: float = math.inf,
    ) -> T:
        """Do what may be done twice, and again until the cluster lets it: that ends no kernel.

        A refusal may be of the moment, too: of an API server that does not know yet who may what,
        of a token that is about to be renewed, of a quota.

        Parameters
        ----------
        doing: the code of what goes on, for the kernel's row.
        refusals: seconds after which a refusal counts. Where there is no answer nothing does.
        """
        clock = asyncio.get_running_loop().time
        pause, end = _AGAIN, clock() + refusals
        while True:
            try:
                return await work()
            except (NotFound, Invalid):
                raise
            except KubernetesError as error:
                if clock() >= end and not unsure(error):
                    raise
                kernel.reason = say(doing, why=words_of(error))
                self.changed(kernel)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    async def _while_stopped(self, kernel: Kernel, work: Callable[[], Awaitable[T]]) -> T:
        """Do what takes a share from a kernel without a server; see :meth:`_patiently`.

        Raises
        ------
        CameBack: meanwhile the process whose it is was heard again, and goes on with it.
        """

        async def unless_it_is_back() -> T:
            if self.presence.alive(kernel.process):
                kernel.reason = ""
                self.changed(kernel)
                raise CameBack("The kernel's server is there again.")
            return await work()

        return await self._patiently(kernel, unless_it_is_back, "server-stopped", _REFUSALS)

    @abstractmethod
    async def _parked(self, kernel: Kernel) -> tuple[Kernel, str]:
        """Have the agent of a kernel without a server take it off its GPU, and give its share back.

        Called with the kernel's lock held.

        Returns
        -------
        The kernel as it is in the table then, and why it still has its share: a sentence, empty
        where it has not.

        Raises
        ------
        CameBack: its server is there again, and has it.
        """

    def _keep(self, kernel: Kernel) -> None:
        """Keep a kernel without its share for the next process of its server, for a while."""

        def over() -> None:
            if self._kernels.get(kernel.key) is not kernel or self.presence.alive(kernel.process):
                return
            if kernel.phase.over:  # another process of its server has it, and tells of it
                self._retire(kernel)
                return
            words = say("server-did-not-return", after=self._kept)
            self._lose(kernel, words, Exit(-15, words))

        self._after_kept(kernel, over)
        self.changed(kernel)

    def _lose(self, kernel: Kernel, words: str, how: Exit) -> None:
        """End a kernel with all it has in memory, and keep the row that says so."""
        if self._kernels.get(kernel.key) is not kernel:
            return
        self._stop_tasks(kernel)
        kernel.phase, kernel.ended, kernel.queue = Phase.ENDED, how, None
        kernel.reason = kernel.lost_work = words
        self._rules.drop(kernel.key)

        def forget() -> None:
            if self._kernels.get(kernel.key) is kernel:
                self._retire(kernel)

        self._after_kept(kernel, forget)
        self._spawn(self._delete(kernel, _END_GRACE))
        self.changed(kernel)
        self._lost()

    def _after_kept(self, kernel: Kernel, then: Callable[[], None]) -> None:
        """Call something once the kernel was kept for as long as it is without its server."""
        if kernel.later is not None:
            kernel.later.cancel()
        kernel.later = asyncio.get_running_loop().call_later(self._kept, then)

    def _retire(self, kernel: Kernel, *, replaced: bool = False) -> None:
        """Take a kernel out of the registry, and delete what it has.

        Parameters
        ----------
        replaced: what is reserved under its key is another start's already.
        """
        if self._kernels.get(kernel.key) is not kernel:
            return
        self._stop_tasks(kernel)
        self._drop(kernel)
        if kernel.lost_work:
            self._lost()
        if not replaced:
            self._rules.drop(kernel.key)
        self._leaving.setdefault(kernel.key, set()).add(kernel)
        kernel.settling = self._spawn(self._end(kernel))
        kernel.begun.set()
        gone = {"kernel_id": kernel.key.kernel_id, "attempt": kernel.attempt}
        self._events.publish((kernel.key.user, kernel.key.server), "gone", gone)

    def _stop_tasks(self, kernel: Kernel) -> None:
        """Stop what goes on for a kernel, but for writes to the cluster."""
        for task in (kernel.work, kernel.watching):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if kernel.later is not None:
            kernel.later.cancel()
            kernel.later = None

    async def _end(self, kernel: Kernel) -> None:
        await stopped(kernel.work)
        try:
            await kernel.objects.delete()
            await kernel.objects.settled()
        finally:
            leaving = self._leaving.get(kernel.key, set())
            leaving.discard(kernel)
            if not leaving:
                self._leaving.pop(kernel.key, None)

    async def _delete(self, kernel: Kernel, grace: int = 1) -> None:
        """Delete what a kernel has whose row is still told."""
        if kernel.work is not asyncio.current_task():
            await stopped(kernel.work)
        await kernel.objects.delete(grace=grace)
        self.changed(kernel)

    async def close(self) -> None:
        """End all work. The kernels stay as they are: another broker goes on with them."""
        self.presence.close()
        await self.proofs.close()
        for kernel in self._kernels.values():
            if kernel.later is not None:
                kernel.later.cancel()
        while self._tasks:
            await stopped(*self._tasks)
        everything = [*self._kernels.values(), *(k for s in self._leaving.values() for k in s)]
        await asyncio.gather(*(kernel.objects.close() for kernel in everything))

    async def _release(self, kernel: Kernel) -> None:
        self._check_quiet(kernel)
        if not kernel.objects.detachable:
            raise Refused(say("part-of-its-pod"))
        await to_the_end(kernel.objects.give_back())
        if not kernel.phase.over:
            kernel.phase, kernel.reason, kernel.failed = Phase.RELEASED, "", None
            self._rules.gave_back(kernel.key)
        self.changed(kernel)

    def _check_quiet(self, kernel: Kernel) -> None:
        """Refuse what cannot be done while the kernel starts, waits or has ended.

        Raises
        ------
        Refused
        """
        if kernel.phase.over:
            raise Refused(say("has-ended"))
        if kernel.busy or not kernel.up or kernel.phase is Phase.STARTING:
            raise Refused(say("starts-or-waits"))
        if self._kernels.get(kernel.key) is not kernel:
            raise Refused("The kernel was started again, or taken over; ask for its row.")
