"""The life of one kernel: queued, started, watched, given back, woken, ended.

A life joins a :class:`~jupyter_gpu_share.relay.Relay`, which clients talk to, with an
:class:`~jupyter_gpu_share.engines.base.Engine`, which runs the kernel behind it. It lives on the
runtime's loop; only what is marked so may be called from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._threads import in_thread
from .allocations import Allocation, Kept, State
from .engines.base import Engine, Exit, KernelRequest, Running, Starting, Waiting
from .errors import GpuShareError, KernelStartError, NotPossible
from .idling import Ladder
from .keeping import Keeper
from .parting import Parting
from .relay import Activity, HoldMode, Relay, RelayEvents
from .resizing import Resizing
from .size import Size
from .snapshots import Note

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["KernelLife"]

_log = logging.getLogger(__name__)

#: jupyter_client looks every 3 s whether a kernel died, and starts it again; until then its share
#: is not given to anybody else.
_RESTART_GRACE = 15.0


class KernelLife(RelayEvents):
    """One kernel, over all processes that ever run it.

    Parameters
    ----------
    relay: bound already; the life closes it.
    start_timeout: seconds that a kernel with a share has to answer.
    """

    def __init__(
        self,
        runtime: Runtime,
        engine: Engine,
        relay: Relay,
        kernel_id: str,
        *,
        start_timeout: float,
    ) -> None:
        self.runtime = runtime
        self.engine = engine
        self.relay = relay
        self.kernel_id = kernel_id
        #: Set by a change of size; the next start takes it.
        self.next_size: Size | None = None
        #: What was asked for last.
        self.request: KernelRequest | None = None
        #: What this life does: it waits in the queue, starts, or watches the kernel.
        self.task: asyncio.Task[None] | None = None
        #: Folder of notebooks of the Jupyter server; None where there is none.
        self.root: str | None = None
        self._start_timeout = start_timeout
        self._exit_code: int | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._ending = False
        self._restarting = False
        #: True where the last process ended without being asked to.
        self.died = False
        #: Set from the kernel's first answer to its end, but not while its share is given back.
        self.running: Running | None = None
        self.keeper = Keeper(
            relay,
            engine,
            kernel_id,
            folder=runtime.kept_folder,
            policy=runtime.idle_policy,
        )
        #: Not set while something is under way that must not be cut short.
        self.calm = asyncio.Event()
        self.calm.set()
        self._under_way = 0
        self._grace_timer: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self.ladder = Ladder(self)
        self.parting = Parting(self)
        self.resizing = Resizing(self)

    # -- may be called from any thread -------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """None while the kernel runs, is queued or has given its share back."""
        return self._exit_code

    @property
    def busy(self) -> bool:
        """True while a cell runs or waits."""
        return self.relay.activity.busy

    @property
    def answers(self) -> bool:
        """True while there is a process behind the relay."""
        return self.running is not None and self._exit_code is None

    @property
    def independent(self) -> bool:
        """True where the kernel is to survive this process."""
        return self.request is not None and bool(self.request.options.get("independent"))

    def notify(self, text: str) -> None:
        """Show a line in the notebook."""
        self.relay.notify(text)

    # RelayEvents: called on the relay's thread.

    def wanted(self, epoch: int = 0) -> None:
        """A cell was run while no kernel is there."""
        self._later(self.wake_if_released)

    def interrupted(self) -> None:
        """The user interrupts while no kernel is there."""
        self._later(self._interrupted)

    def shutdown(self, restart: bool) -> None:
        """A client asks the kernel to end while none is there."""
        self._later(lambda: self._expect_end(restart=restart))

    def activity(self, activity: Activity) -> None:
        """Cells were sent, or are done."""
        self._later(lambda: self.note_activity(activity))

    def _later(self, work: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self.runtime.loop.call_soon_threadsafe(work)

    # -- start, restart, wake ----------------------------------------------------------------

    async def launch(self, request: KernelRequest, *, patience: float) -> None:
        """Start the kernel, or start it again.

        Returns when the kernel has answered, or after ``patience`` seconds: the relay then holds
        what clients send until the kernel is there.

        Raises
        ------
        GpuShareError: it cannot start. Nothing is left but the relay.
        """
        await self.abandon()
        self.parting.away = None
        await self.engine.stop(self.kernel_id, keep_share=True)
        await in_thread(self.keeper.discard)
        self._cancel_grace()
        self.relay.hold(HoldMode.STARTING)
        self._new(request, lambda old: State.STARTING if old and old.share else State.QUEUED)
        answered = self.begin(State.QUEUED)
        try:
            await asyncio.wait({answered}, timeout=patience)
        except BaseException:
            await self.abandon()
            raise
        if answered.done():
            await answered

    async def rest(self, request: KernelRequest) -> None:
        """Be a kernel whose variables an earlier server has saved: its next cell starts it."""
        self.relay.hold(HoldMode.WAITING)
        self._new(request, lambda _: State.RELEASED)
        reason = "The Jupyter server was started again; the next cell brings the variables back."
        self.update(reason=reason, kept=Kept("snapshot", ()))
        self.ladder.released()

    def _new(self, request: KernelRequest, state: Callable[[Allocation | None], State]) -> None:
        """Have an allocation for what was asked for."""
        self.request = request
        self.keeper.language = request.language
        self._exit_code = None
        self._ended.clear()
        self.died = False
        self._ending = self._restarting = False
        old = self.runtime.table.get(self.kernel_id)
        fresh = Allocation(
            kernel_id=self.kernel_id,
            kernel_name=request.kernel_name,
            size=str(request.size),
            state=state(old),
            path=request.path,
            user=request.user,
            share=old.share if old else None,
            engine=self.engine.name,
            keep_until=old.keep_until if old else None,
        )
        self.runtime.table.put(fresh)

    @property
    def note(self) -> Note | None:
        """Whose its saved variables are; None where no other server could know."""
        if self.request is None or self.root is None:
            return None
        request = self.request
        return Note(self.kernel_id, request.kernel_name, str(request.size), self.root, request.path)

    def begin(self, waiting: State) -> asyncio.Future[None]:
        """Get a share and a process; ``waiting`` is the state while there is no room."""
        assert self.request is not None
        answered: asyncio.Future[None] = self.runtime.loop.create_future()
        # Nobody may be left to fetch the outcome once the patience is over.
        answered.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.task is not None:  # what watched a process without its share
            self.task.cancel()
            self.own(self.task)
        self.task = asyncio.create_task(self._live(self.request, waiting, answered))
        return answered

    async def _live(
        self, request: KernelRequest, waiting: State, answered: asyncio.Future[None]
    ) -> None:
        """One process of the kernel, from its place in the queue to its end."""
        try:
            if self.parting.away is not None:
                running = await self.parting.come_back(lambda news: self.report(news, waiting))
            else:
                running = await self.engine.start(request, lambda news: self.report(news, waiting))
                await self.parting.attach(running, restore=waiting is State.WAKING)
        except asyncio.CancelledError:
            await self._undo_start()
            if not answered.done():
                answered.set_result(None)
            raise
        except BaseException as error:
            await self._undo_start()
            self._failed(error, waiting)
            if not answered.done():
                answered.set_exception(error)
            return
        self.running = running
        self.update(state=State.ACTIVE, share=running.share, queue=None, reason="")
        if not answered.done():
            answered.set_result(None)
        await self._watch()

    async def _watch(self) -> None:
        """Note what an answering kernel does until it ends."""
        self.note_activity(self.relay.activity)
        ended = await self.engine.wait(self.kernel_id)
        with self.uninterrupted():
            self.running = None
            await asyncio.wrap_future(self.relay.detach())
            await self.gone(ended)

    def report(self, news: Waiting | Starting, waiting: State) -> None:
        """Show how far a start has come, or the way back of a share."""
        if isinstance(news, Waiting):
            place = f"number {news.queue.position} of {news.queue.of} waiting"
            notice = f"Waiting for GPU {self._size}: {place}. {news.reason}"
            self.relay.hold(HoldMode.WAITING, notice)
            self.update(state=waiting, queue=news.queue, reason=news.reason, share=None)
        else:
            row = self.runtime.table.get(self.kernel_id)
            waited = row is not None and row.queue is not None
            lines = [f"GPU {self._size} is here; the kernel starts."] if waited else []
            self.relay.hold(HoldMode.STARTING, " ".join([*lines, news.notice]).strip())
            backend, style = self.engine.sharing
            self.update(
                state=State.STARTING,
                queue=None,
                reason=news.notice,
                share=news.share,
                backend=backend,
                style=style,
            )

    async def meet(self, running: Running, *, paused: bool) -> None:
        """Put the kernel behind the relay, unless it ends first or never answers."""
        attached = asyncio.wrap_future(self.relay.attach(running.connection, paused=paused))
        try:
            ended = await self.engine.ended_before(self.kernel_id, attached, self._start_timeout)
        except asyncio.TimeoutError as error:
            raise KernelStartError(
                f"The kernel did not answer within {self._start_timeout:g} s. An ipykernel "
                "older than 7.3 cannot answer an encrypted connection; otherwise raise "
                "GpuShareProvisioner.start_timeout."
            ) from error
        if ended is not None:
            raise KernelStartError(
                f"The kernel ended before it answered: {ended.reason} "
                "What it printed last is in the log of the Jupyter server."
            )
        await attached

    async def _undo_start(self) -> None:
        await asyncio.wrap_future(self.relay.detach())
        if self.parting.away is None:
            await self.engine.stop(self.kernel_id)

    def _failed(self, error: BaseException, waiting: State) -> None:
        if not isinstance(error, GpuShareError):
            _log.error("Kernel %s could not start", self.kernel_id, exc_info=error)
        self.relay.discard(type(error).__name__, str(error))
        if waiting is State.WAKING:
            # The notebook stays as it is; the next cell tries again.
            self.relay.hold(HoldMode.WAITING)
            self.update(state=State.RELEASED, reason=str(error), share=None, queue=None)
            self.parting.guard()
        else:
            self.update(state=State.FAILED, reason=str(error), share=None, queue=None)
            self.died = True
            self._set_exit(1)

    async def wake(self) -> None:
        """Ask for a share again if it was given back. Does not wait until it is there.

        Raises
        ------
        NotPossible: the kernel has ended.
        """
        if self._exit_code is not None:
            raise NotPossible("The kernel has ended; restart it.")
        self.wake_if_released()

    def wake_if_released(self, why: str = "a cell was run") -> asyncio.Future[None] | None:
        """Ask for a share again if it was given back; the future is done when it is there."""
        if (
            self.state is not State.RELEASED
            or self.request is None
            or self._exit_code is not None
            or not self.calm.is_set()
        ):
            return None
        if self.next_size is not None:
            self.request = replace(self.request, size=self.next_size)
            self.next_size = None
        self.ladder.stop()
        self.update(state=State.WAKING, size=str(self.request.size), reason=why, next=None)
        return self.begin(State.WAKING)

    # -- giving back, interrupt --------------------------------------------------------------

    async def release(self, *, lose_variables: bool) -> None:
        """Give the share back; a queued kernel leaves the queue.

        Raises
        ------
        NotPossible: a cell runs, or variables would be lost and ``lose_variables`` is not set.
        """
        if self.state in (State.QUEUED, State.WAKING):
            await self._give_up("The place in the queue was given up.")
            return
        if self.state is State.RELEASED:
            return
        allocation = self.runtime.table.get(self.kernel_id)
        if self.running is None or not (
            allocation and allocation.share and allocation.share.devices
        ):
            raise NotPossible("The kernel holds no share that could be given back now.")
        await self.to_the_end(self.parting.release(lose_variables=lose_variables))

    async def to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work that goes on where the caller leaves: half of it would be neither."""
        task = asyncio.ensure_future(work)
        self.own(task)
        await asyncio.shield(task)

    def _interrupted(self) -> None:
        if self.state in (State.QUEUED, State.WAKING):
            self._chore(self._give_up("Waiting was interrupted."))
        elif self._exit_code is None and (self.running is None or self.state is State.RELEASING):
            self.relay.discard("KeyboardInterrupt", "The cell was interrupted before it ran.")

    async def _give_up(self, reason: str) -> None:
        await self.calm.wait()
        if self.running is not None:
            # It had its share already, and was put behind the relay meanwhile.
            await self.engine.signal(self.kernel_id, signal.SIGINT)
            return
        await self.abandon()
        self.relay.hold(HoldMode.WAITING)
        # Before the cells are answered: whoever sees the answer asks about the state next.
        self.update(
            state=State.RELEASED,
            queue=None,
            share=None,
            reason=f"{reason} Running a cell asks for the GPU again.",
        )
        self.relay.discard("KeyboardInterrupt", f"{reason} Run the cell again to ask for the GPU.")
        self.parting.guard()

    # -- the end -----------------------------------------------------------------------------

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel. Where none is there yet, do what it means."""
        if self.running:
            await self.engine.signal(self.kernel_id, signum)
        elif signum == signal.SIGINT:
            self._interrupted()
        elif signum in (signal.SIGTERM, signal.SIGKILL):
            await self.abandon()
            self._set_exit(-signum)

    async def expect_end(self, *, restart: bool) -> None:
        """The kernel was asked to end, to be started again or for good."""
        self._expect_end(restart=restart)

    def _expect_end(self, *, restart: bool) -> None:
        self._ending, self._restarting = not restart, restart
        if self.running or self._exit_code is not None or self.state is State.STARTING:
            return
        # There is nobody to wait for. Whoever asked polls at once.
        self.relay.discard("KernelShutdown", "The kernel was shut down while it waited for a GPU.")
        self._chore(self.abandon())
        self._set_exit(0)

    async def restart_expected(self) -> None:
        """The kernel's end is the first half of a restart: its share is kept for a while."""
        self._restarting = True
        self._start_grace()

    async def ended(self) -> int:
        """Wait for the kernel's end; its exit code."""
        await self._ended.wait()
        return self._exit_code or 0

    async def close(self) -> None:
        """End the kernel, give its share back and close the relay. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._cancel_grace()
        self.ladder.stop()
        self.runtime.lives.pop(self.kernel_id, None)
        try:
            await self.abandon()
            await asyncio.wrap_future(self.relay.detach())
            self.running = self.parting.away = None
            await self.engine.stop(self.kernel_id)
        finally:
            await in_thread(self.keeper.discard)
            await asyncio.wrap_future(self.relay.close())
            self._set_exit(0 if self._exit_code is None else self._exit_code)
            self._forget("The kernel has ended.")

    async def gone(self, ended: Exit) -> None:
        """The kernel's process ended by itself or by a signal."""
        if self._ending:
            await self.engine.stop(self.kernel_id)
            self._forget("The kernel was shut down.")
        else:
            # Whether it is started again is not known yet: a kill "now" says nothing about it.
            await self.engine.stop(self.kernel_id, keep_share=True)
            self.died = not self._restarting
            reason = "The kernel restarts." if self._restarting else ended.reason
            self.update(
                state=State.STARTING if self._restarting else State.FAILED,
                reason=reason,
                idle_since=None,
                used_bytes=None,
                utilization=None,
            )
            self._start_grace()
        self.ladder.stop()
        self.relay.hold(HoldMode.STARTING)
        self._set_exit(ended.code)

    def _start_grace(self) -> None:
        self._cancel_grace()
        self._grace_timer = self.runtime.loop.call_later(
            _RESTART_GRACE, lambda: self._chore(self._not_restarted())
        )

    def _cancel_grace(self) -> None:
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None

    async def _not_restarted(self) -> None:
        if self._exit_code is not None and not self._closed:
            await self.engine.stop(self.kernel_id)
            self._forget("The kernel has ended.")

    def _forget(self, reason: str) -> None:
        self.update(
            state=State.ENDED,
            reason=reason,
            share=None,
            queue=None,
            used_bytes=None,
            idle_since=None,
        )
        self.runtime.table.remove(self.kernel_id)

    def _set_exit(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()

    def note_activity(self, activity: Activity) -> None:
        """Show what clients do with the kernel, and have its ladder know."""
        if self.running is None or self.state is State.RELEASING:
            return
        if activity.busy:
            self.ladder.used()
            self.update(state=State.ACTIVE, idle_since=None, next=None, reason="")
        else:
            self.ladder.unused()

    # -- small helpers -----------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """Of the kernel's allocation; None where there is none."""
        row = self.runtime.table.get(self.kernel_id)
        return row.state if row else None

    @property
    def _size(self) -> str:
        return str(self.request.size) if self.request else ""

    def resized(self, size: Size) -> None:
        """From now on the kernel is one of this size; its next start takes it."""
        assert self.request is not None
        self.request = replace(self.request, size=size)
        self.update(size=str(size))
        self.ladder.reconsider()

    def update(self, **changes: Any) -> None:
        """Change the kernel's allocation."""
        self.runtime.table.update(self.kernel_id, **changes)

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        self.own(asyncio.ensure_future(work, loop=self.runtime.loop))

    def own(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task until it is done."""
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Have whoever wants this life to stop wait for the end of the block."""
        self._under_way += 1
        self.calm.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:  # a kernel may end while its share is changed
                self.calm.set()

    async def abandon(self) -> None:
        """Stop what this life is doing: waiting in the queue, starting, or watching the kernel.

        A start is undone; a kernel that runs already goes on until the engine ends it. The
        handling of a kernel's end is waited for.
        """
        task, self.task = self.task, None
        if task is None or task is asyncio.current_task():
            return
        await self.calm.wait()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            _log.error("The life of kernel %s met an error", self.kernel_id, exc_info=error)
