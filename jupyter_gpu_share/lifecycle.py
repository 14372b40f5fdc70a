"""The life of one kernel: queued, started, watched, given back, woken, ended.

A life joins a :class:`~jupyter_gpu_share.relay.Relay`, which clients talk to, with an
:class:`~jupyter_gpu_share.engines.base.Engine`, which runs the kernel behind it. It lives on the
runtime's loop; only what is marked so may be called from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._threads import in_thread
from .allocations import Allocation, Kept, State
from .engines.base import Engine, Exit, KernelRequest, Running, Starting, Waiting
from .errors import GpuShareError, KernelStartError, NotPossible
from .idling import Ladder
from .keeping import Keeper, Look
from .relay import Activity, HoldMode, Relay, RelayEvents
from .size import Size

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["KernelLife"]

_log = logging.getLogger(__name__)

#: jupyter_client looks every 3 s whether a kernel died, and starts it again; until then its share
#: is not given to anybody else.
_RESTART_GRACE = 15.0
#: Seconds that a change of size is waited for by whoever asked for it.
_CHANGE_PATIENCE = 10.0


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
        self._start_timeout = start_timeout
        self._request: KernelRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._exit_code: int | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self._ending = False
        self._restarting = False
        #: True where the last process ended without being asked to.
        self.died = False
        #: Set from the kernel's first answer to its end, but not while its share is given back.
        self._running: Running | None = None
        #: Set while the process lives on without its share.
        self._parked: Running | None = None
        self._keeper = Keeper(
            relay,
            engine,
            kernel_id,
            folder=runtime.kept_folder,
            policy=runtime.idle_policy,
        )
        #: Held by whoever pauses the kernel.
        self._turn = asyncio.Lock()
        #: Not set while something is under way that must not be cut short.
        self._calm = asyncio.Event()
        self._calm.set()
        self._grace_timer: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self.ladder = Ladder(self)

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
        return self._running is not None and self._exit_code is None

    @property
    def independent(self) -> bool:
        """True where the kernel is to survive this process."""
        return self._request is not None and bool(self._request.options.get("independent"))

    def notify(self, text: str) -> None:
        """Show a line in the notebook."""
        self.relay.notify(text)

    # RelayEvents: called on the relay's thread.

    def wanted(self) -> None:
        """A cell was run while no kernel is there."""
        self._later(self._wake_if_released)

    def interrupted(self) -> None:
        """The user interrupts while no kernel is there."""
        self._later(self._interrupted)

    def shutdown(self, restart: bool) -> None:
        """A client asks the kernel to end while none is there."""
        self._later(lambda: self._expect_end(restart=restart))

    def activity(self, activity: Activity) -> None:
        """Cells were sent, or are done."""
        self._later(lambda: self._note_activity(activity))

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
        await self._abandon()
        self._parked = None
        await self.engine.stop(self.kernel_id, keep_share=True)
        await in_thread(self._keeper.discard)
        self._cancel_grace()
        self._request = request
        self._keeper.language = request.language
        self._exit_code = None
        self._ended.clear()
        self.died = False
        self._ending = self._restarting = False
        self.relay.hold(HoldMode.STARTING)
        old = self.runtime.table.get(self.kernel_id)
        fresh = Allocation(
            kernel_id=self.kernel_id,
            kernel_name=request.kernel_name,
            size=str(request.size),
            state=State.STARTING if old and old.share else State.QUEUED,
            path=request.path,
            user=request.user,
            share=old.share if old else None,
            engine=self.engine.name,
            keep_until=old.keep_until if old else None,
        )
        self.runtime.table.put(fresh)
        answered = self._begin(State.QUEUED)
        try:
            await asyncio.wait({answered}, timeout=patience)
        except BaseException:
            await self._abandon()
            raise
        if answered.done():
            await answered

    def _begin(self, waiting: State) -> asyncio.Future[None]:
        assert self._request is not None
        answered: asyncio.Future[None] = self.runtime.loop.create_future()
        # Nobody may be left to fetch the outcome once the patience is over.
        answered.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._task is not None:  # what watched a process without its share
            self._task.cancel()
            self.own(self._task)
        self._task = asyncio.create_task(self._live(self._request, waiting, answered))
        return answered

    async def _live(
        self, request: KernelRequest, waiting: State, answered: asyncio.Future[None]
    ) -> None:
        """One process of the kernel, from its place in the queue to its end."""
        try:
            if self._parked is not None:
                running = await self._return(self._parked, waiting)
            else:
                running = await self.engine.start(request, lambda news: self._report(news, waiting))
                await self._attach(running, restore=waiting is State.WAKING)
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
        self._running = running
        self.update(state=State.ACTIVE, share=running.share, queue=None, reason="")
        if not answered.done():
            answered.set_result(None)
        await self._watch()

    async def _watch(self) -> None:
        """Note what an answering kernel does until it ends."""
        self._note_activity(self.relay.activity)
        ended = await self.engine.wait(self.kernel_id)
        with self._uninterrupted():
            self._running = None
            await asyncio.wrap_future(self.relay.detach())
            await self._gone(ended)

    def _report(self, news: Waiting | Starting, waiting: State) -> None:
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

    async def _return(self, parked: Running, waiting: State) -> Running:
        """Take the share back for a process that lives on without it.

        However it ends other than by returning, the process is as it was, and holds no share.
        """
        share = await self.engine.take_back(
            self.kernel_id, lambda news: self._report(news, waiting)
        )
        # From here on it is a moment, and cut short it would be neither here nor there.
        with self._uninterrupted():
            asked = False
            try:
                await self._meet(parked, paused=True)
                asked = True
                await self._keeper.resume()
                await asyncio.wrap_future(self.relay.resume())
            except BaseException:
                await self._stay_away(asked=asked)
                raise
        self._parked = None
        return replace(parked, share=share)

    async def _stay_away(self, *, asked: bool) -> None:
        """Undo the way back of a process, which may have been ``asked`` to move already."""
        try:
            if asked:
                await self._keeper.vacate()
        except GpuShareError as error:
            # It may be on the GPU, and cannot be moved: others must not get what it has there.
            _log.error("Kernel %s is ended: %s", self.kernel_id, error)
            await asyncio.wrap_future(self.relay.detach())
            await self.engine.signal(self.kernel_id, signal.SIGKILL)
            await self.engine.wait(self.kernel_id)
        else:
            await asyncio.wrap_future(self.relay.detach())
        await self.engine.give_back(self.kernel_id)

    async def _attach(self, running: Running, *, restore: bool) -> None:
        """Put a new process behind the relay, with the variables that were kept for it."""
        if running.away:
            await self._meet(running, paused=True)
            await self._keeper.resume()
            await asyncio.wrap_future(self.relay.resume())
            return
        if not (restore and await in_thread(lambda: self._keeper.has_snapshot)):
            await self._meet(running, paused=False)
            return
        await self._meet(running, paused=True)
        try:
            line = await self._keeper.load()
        except GpuShareError as error:
            raise KernelStartError(
                f"The variables could not be given back to the kernel: {error} They are still "
                "kept; run a cell to try again, or restart the kernel to go on without them."
            ) from error
        # Once cells reach it, the variables are there, and nowhere else.
        with self._uninterrupted():
            await asyncio.wrap_future(self.relay.resume(line))
            await in_thread(self._keeper.discard)

    async def _meet(self, running: Running, *, paused: bool) -> None:
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
        if self._parked is None:
            await self.engine.stop(self.kernel_id)

    def _failed(self, error: BaseException, waiting: State) -> None:
        if not isinstance(error, GpuShareError):
            _log.error("Kernel %s could not start", self.kernel_id, exc_info=error)
        self.relay.discard(type(error).__name__, str(error))
        if waiting is State.WAKING:
            # The notebook stays as it is; the next cell tries again.
            self.relay.hold(HoldMode.WAITING)
            self.update(state=State.RELEASED, reason=str(error), share=None, queue=None)
            self._guard_parked()
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
        self._wake_if_released()

    def _wake_if_released(self, why: str = "a cell was run") -> asyncio.Future[None] | None:
        if (
            self._state is not State.RELEASED
            or self._request is None
            or self._exit_code is not None
            or not self._calm.is_set()
        ):
            return None
        if self.next_size is not None:
            self._request = replace(self._request, size=self.next_size)
            self.next_size = None
        self.ladder.stop()
        self.update(state=State.WAKING, size=str(self._request.size), reason=why, next=None)
        return self._begin(State.WAKING)

    # -- giving back, interrupt --------------------------------------------------------------

    async def release(self, *, lose_variables: bool) -> None:
        """Give the share back; a queued kernel leaves the queue.

        Raises
        ------
        NotPossible: a cell runs, or variables would be lost and ``lose_variables`` is not set.
        """
        if self._state in (State.QUEUED, State.WAKING):
            await self._give_up("The place in the queue was given up.")
            return
        if self._state is State.RELEASED:
            return
        allocation = self.runtime.table.get(self.kernel_id)
        if self._running is None or not (
            allocation and allocation.share and allocation.share.devices
        ):
            raise NotPossible("The kernel holds no share that could be given back now.")
        await self._to_the_end(self._release(lose_variables=lose_variables))

    async def _release(self, *, lose_variables: bool) -> None:
        async with self._turn:
            if not self.answers:
                return  # somebody else asked for it at the same time
            async with self._held_back():
                look = await self._keeper.look()
                self.update(kept=look.kept)
                if look.kept.lost and not lose_variables:
                    raise NotPossible(_refusal("Giving the share back", look, "lose_variables"))
                await self._part(look)
        if self.relay.held:
            self._wake_if_released()

    async def look(self, *, ends: bool = False) -> Look:
        """What works in the kernel although no cell runs, and how its state would be kept.

        Clients notice nothing of it. ``ends`` says that the process cannot live on.

        Raises
        ------
        NotPossible: no kernel answers, or a cell runs.
        """
        async with self._turn:
            if self._running is None or (await asyncio.wrap_future(self.relay.count())).busy:
                raise NotPossible("A cell runs; interrupt it or wait for its end.")
            self.relay.hold(HoldMode.STARTING)
            try:
                if (await asyncio.wrap_future(self.relay.pause())).busy:
                    raise NotPossible("A cell was run just now.")
                return await self._keeper.look(ends=ends)
            finally:
                await asyncio.wrap_future(self.relay.resume())

    async def change_size(self, size: Size, *, lose_variables: bool) -> bool:
        """Give the kernel another size, with its variables.

        They are saved, and given to a new process with the new share. Returns when the old one is
        gone; what clients send meanwhile waits. False where only a restart can do it: no process
        is there that could save any, or they may be lost and a cell runs.

        Raises
        ------
        NotPossible: a cell runs, or variables would be lost and ``lose_variables`` is not set.
        """
        if await self._has_saved():
            assert self._request is not None
            self._request = replace(self._request, size=size)
            self.update(size=str(size))
            return True
        if self._running is None or (self.busy and lose_variables):
            return False
        await self._to_the_end(self._change_size(size, lose_variables=lose_variables))
        return True

    async def kept_by_change(self) -> Kept:
        """What a change of size would keep.

        Raises
        ------
        NotPossible: a cell runs.
        """
        if await self._has_saved():
            return Kept("snapshot", ())
        return (await self.look(ends=True)).kept if self.answers else Kept()

    async def _has_saved(self) -> bool:
        """Whether the share is given back, and the variables wait for the next process."""
        return (
            self._state is State.RELEASED
            and self._parked is None
            and await in_thread(lambda: self._keeper.has_snapshot)
        )

    async def _change_size(self, size: Size, *, lose_variables: bool) -> None:
        async with self._turn:
            if not self.answers:
                raise NotPossible("The share was given back just now; run a cell and try again.")
            async with self._held_back():
                look = await self._keeper.look(ends=True)
                if look.kept.lost and not lose_variables:
                    raise NotPossible(_refusal(f"Changing the size to {size}", look, "restart"))
                await self._part(look)
        assert self._request is not None
        self._request = replace(self._request, size=size)
        self.update(size=str(size))
        answered = self._wake_if_released("the size was changed")
        if answered is not None:
            # Whoever asked sees what came of it, unless it takes long.
            await asyncio.wait({answered}, timeout=_CHANGE_PATIENCE)

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work that goes on where the caller leaves: half of it would be neither."""
        task = asyncio.ensure_future(work)
        self.own(task)
        await asyncio.shield(task)

    @asynccontextmanager
    async def _held_back(self) -> AsyncIterator[None]:
        """Within the block the kernel is paused; it goes on if the block fails."""
        await self._hold_back()
        try:
            yield
        except BaseException:
            if self.answers:
                await asyncio.wrap_future(self.relay.resume())
                self.update(state=State.ACTIVE)
                self._note_activity(self.relay.activity)
            raise

    async def _hold_back(self) -> None:
        """Have the relay hold back what clients send, with no cell under way.

        Raises
        ------
        NotPossible: a cell runs. Nothing has changed.
        """
        if (await asyncio.wrap_future(self.relay.count())).busy:
            raise NotPossible("A cell runs; interrupt it or wait for its end.")
        self.update(state=State.RELEASING, reason="")
        self.relay.hold(HoldMode.WAITING)
        if (await asyncio.wrap_future(self.relay.pause())).busy:
            # A cell slipped in before the relay held back the next one: it has the right of way.
            await asyncio.wrap_future(self.relay.resume())
            self.update(state=State.ACTIVE)
            raise NotPossible("A cell was run just now; the share stays.")

    async def _part(self, look: Look) -> None:
        """Part the kernel from its share, keeping its state as was found possible."""
        running = self._running
        assert running is not None
        reason = "The next cell starts a new kernel without variables."
        if look.kept.how == "in-place":
            await self._keeper.vacate()
            try:
                await self.engine.give_back(self.kernel_id)
            except BaseException:
                await asyncio.shield(self._keeper.resume())
                raise
            reason = "The variables are kept; the next cell takes the share back."
        elif look.kept.how == "snapshot":
            await self._keeper.save()
            reason = "The variables are saved; the next cell brings them back."
        await self._abandon()
        if self._exit_code is not None:
            raise NotPossible("The kernel has just ended.")
        await asyncio.wrap_future(self.relay.detach())
        self._running = None
        if look.kept.how == "in-place":
            self._parked = running
        else:
            await self.engine.stop(self.kernel_id)
        self.update(
            state=State.RELEASED,
            share=None,
            used_bytes=None,
            utilization=None,
            idle_since=None,
            next=None,
            reason=reason,
        )
        self._guard_parked()
        self.ladder.released()

    def _guard_parked(self) -> None:
        """Notice the end of a process that lives on without its share."""
        if self._parked is not None:
            self._task = asyncio.create_task(self._watch_parked())

    async def _watch_parked(self) -> None:
        ended = await self.engine.wait(self.kernel_id)
        with self._uninterrupted():
            self._parked = None
            await self._gone(ended)

    def _interrupted(self) -> None:
        if self._state in (State.QUEUED, State.WAKING):
            self._chore(self._give_up("Waiting was interrupted."))
        elif self._exit_code is None and (self._running is None or self._state is State.RELEASING):
            self.relay.discard("KeyboardInterrupt", "The cell was interrupted before it ran.")

    async def _give_up(self, reason: str) -> None:
        await self._calm.wait()
        if self._running is not None:
            # It had its share already, and was put behind the relay meanwhile.
            await self.engine.signal(self.kernel_id, signal.SIGINT)
            return
        await self._abandon()
        self.relay.hold(HoldMode.WAITING)
        # Before the cells are answered: whoever sees the answer asks about the state next.
        self.update(
            state=State.RELEASED,
            queue=None,
            share=None,
            reason=f"{reason} Running a cell asks for the GPU again.",
        )
        self.relay.discard("KeyboardInterrupt", f"{reason} Run the cell again to ask for the GPU.")
        self._guard_parked()

    # -- the end -----------------------------------------------------------------------------

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel. Where none is there yet, do what it means."""
        if self._running:
            await self.engine.signal(self.kernel_id, signum)
        elif signum == signal.SIGINT:
            self._interrupted()
        elif signum in (signal.SIGTERM, signal.SIGKILL):
            await self._abandon()
            self._set_exit(-signum)

    async def expect_end(self, *, restart: bool) -> None:
        """The kernel was asked to end, to be started again or for good."""
        self._expect_end(restart=restart)

    def _expect_end(self, *, restart: bool) -> None:
        self._ending, self._restarting = not restart, restart
        if self._running or self._exit_code is not None or self._state is State.STARTING:
            return
        # There is nobody to wait for. Whoever asked polls at once.
        self.relay.discard("KernelShutdown", "The kernel was shut down while it waited for a GPU.")
        self._chore(self._abandon())
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
            await self._abandon()
            await asyncio.wrap_future(self.relay.detach())
            self._running = self._parked = None
            await self.engine.stop(self.kernel_id)
        finally:
            await in_thread(self._keeper.discard)
            await asyncio.wrap_future(self.relay.close())
            self._set_exit(0 if self._exit_code is None else self._exit_code)
            self._forget("The kernel has ended.")

    async def _gone(self, ended: Exit) -> None:
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

    def _note_activity(self, activity: Activity) -> None:
        if self._running is None or self._state is State.RELEASING:
            return
        if activity.busy:
            self.ladder.used()
            self.update(state=State.ACTIVE, idle_since=None, next=None, reason="")
        else:
            self.ladder.unused()

    # -- small helpers -----------------------------------------------------------------------

    @property
    def _state(self) -> State | None:
        row = self.runtime.table.get(self.kernel_id)
        return row.state if row else None

    @property
    def _size(self) -> str:
        return str(self._request.size) if self._request else ""

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
    def _uninterrupted(self) -> Iterator[None]:
        """Have whoever wants this life to stop wait for the end of the block."""
        self._calm.clear()
        try:
            yield
        finally:
            self._calm.set()

    async def _abandon(self) -> None:
        """Stop what this life is doing: waiting in the queue, starting, or watching the kernel.

        A start is undone; a kernel that runs already goes on until the engine ends it. The
        handling of a kernel's end is waited for.
        """
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return
        await self._calm.wait()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            _log.error("The life of kernel %s met an error", self.kernel_id, exc_info=error)


def _refusal(what: str, look: Look, allow: str) -> str:
    """Why something is not done: what would be lost, and how to allow that."""
    lost = ", ".join(look.kept.lost)
    why = f" {look.why}" if look.why else ""
    return (
        f"{what} now would lose {lost}; nothing was changed.{why} "
        f"Save what you need, then allow the loss ({allow})."
    )
