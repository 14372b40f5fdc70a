"""The life of one kernel: queued, started, watched, given back, woken, ended.

A life joins a :class:`~jupyter_gpu_share.relay.Relay`, which clients talk to, with an
:class:`~jupyter_gpu_share.engines.base.Engine`, which runs the kernel behind it. It lives on the
runtime's loop; only what is marked so may be called from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .allocations import Allocation, State
from .engines.base import Engine, Exit, KernelRequest, Running, Starting, Waiting
from .errors import GpuShareError, KernelStartError, NotPossible
from .relay import Activity, HoldMode, Relay, RelayEvents
from .size import Size

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
        #: Set from the kernel's first answer to its end.
        self._running: Running | None = None
        #: The end of a kernel is being handled; that must not be cut short.
        self._finishing = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()

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

    def _later(self, work: Callable[[], None]) -> None:
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
        await self.engine.stop(self.kernel_id, keep_share=True)
        self._cancel_grace()
        self._request = request
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
        self._task = asyncio.create_task(self._live(self._request, waiting, answered))
        return answered

    async def _live(
        self, request: KernelRequest, waiting: State, answered: asyncio.Future[None]
    ) -> None:
        """One process of the kernel, from its place in the queue to its end."""
        try:
            running = await self.engine.start(request, lambda news: self._report(news, waiting))
            await self._attach(running)
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
        self._update(state=State.ACTIVE, share=running.share, queue=None, reason="")
        if not answered.done():
            answered.set_result(None)
        await self._watch()

    async def _watch(self) -> None:
        """Note what an answering kernel does until it ends."""
        self._note_activity(self.relay.activity)
        ended = await self.engine.wait(self.kernel_id)
        self._finishing = True
        try:
            self._running = None
            await asyncio.wrap_future(self.relay.detach())
            await self._gone(ended)
        finally:
            self._finishing = False

    def _report(self, news: Waiting | Starting, waiting: State) -> None:
        if isinstance(news, Waiting):
            place = f"number {news.queue.position} of {news.queue.of} waiting"
            notice = f"Waiting for GPU {self._size}: {place}. {news.reason}"
            self.relay.hold(HoldMode.WAITING, notice)
            self._update(state=waiting, queue=news.queue, reason=news.reason, share=None)
        else:
            row = self.runtime.table.get(self.kernel_id)
            waited = row is not None and row.queue is not None
            lines = [f"GPU {self._size} is here; the kernel starts."] if waited else []
            self.relay.hold(HoldMode.STARTING, " ".join([*lines, news.notice]).strip())
            backend, style = self.engine.sharing
            self._update(
                state=State.STARTING,
                queue=None,
                reason=news.notice,
                share=news.share,
                backend=backend,
                style=style,
            )

    async def _attach(self, running: Running) -> None:
        """Put the kernel behind the relay, unless it ends first or never answers."""
        attached = asyncio.wrap_future(self.relay.attach(running.connection))
        ended = asyncio.ensure_future(self.engine.wait(self.kernel_id))
        waiters: set[asyncio.Future[Any]] = {attached, ended}
        try:
            await asyncio.wait(
                waiters, timeout=self._start_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if attached.done():
                await attached
            elif ended.done():
                raise KernelStartError(
                    f"The kernel ended before it answered: {ended.result().reason} "
                    "What it printed last is in the log of the Jupyter server."
                )
            else:
                raise KernelStartError(
                    f"The kernel did not answer within {self._start_timeout:g} s. An ipykernel "
                    "older than 7.3 cannot answer an encrypted connection; otherwise raise "
                    "GpuShareProvisioner.start_timeout."
                )
        finally:
            # Awaiting them one by one would take our own cancellation for theirs.
            left = {waiter for waiter in waiters if not waiter.done()}
            for waiter in left:
                waiter.cancel()
            if left:
                await asyncio.wait(left)

    async def _undo_start(self) -> None:
        await asyncio.wrap_future(self.relay.detach())
        await self.engine.stop(self.kernel_id)

    def _failed(self, error: BaseException, waiting: State) -> None:
        if not isinstance(error, GpuShareError):
            _log.error("Kernel %s could not start", self.kernel_id, exc_info=error)
        self.relay.discard(type(error).__name__, str(error))
        if waiting is State.WAKING:
            # The notebook stays as it is; the next cell tries again.
            self.relay.hold(HoldMode.WAITING)
            self._update(state=State.RELEASED, reason=str(error), share=None, queue=None)
        else:
            self._update(state=State.FAILED, reason=str(error), share=None, queue=None)
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

    def _wake_if_released(self) -> None:
        if (
            self._state is not State.RELEASED
            or self._request is None
            or self._exit_code is not None
        ):
            return
        if self.next_size is not None:
            self._request = replace(self._request, size=self.next_size)
            self.next_size = None
        self._update(state=State.WAKING, size=str(self._request.size), reason="a cell was run")
        self._begin(State.WAKING)

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
        if (await asyncio.wrap_future(self.relay.count())).busy:
            raise NotPossible("A cell runs; interrupt it or wait for its end.")
        kept = self.engine.kept(self.kernel_id)
        if kept.lost and not lose_variables:
            lost = ", ".join(kept.lost)
            raise NotPossible(
                f"Giving the share back now would lose {lost}; nothing was changed. "
                "Save what you need, then allow the loss (lose_variables)."
            )
        self._update(state=State.RELEASING, reason="")
        self.relay.hold(HoldMode.WAITING)
        if (await asyncio.wrap_future(self.relay.pause())).busy:
            # A cell slipped in before the relay held back the next one: it has the right of way.
            await asyncio.wrap_future(self.relay.resume())
            self._update(state=State.ACTIVE)
            raise NotPossible("A cell was run just now; the share stays.")
        await self._abandon()
        if self._exit_code is not None:
            raise NotPossible("The kernel has just ended.")
        await asyncio.wrap_future(self.relay.detach())
        self._running = None
        await self.engine.stop(self.kernel_id)
        self._update(
            state=State.RELEASED,
            share=None,
            used_bytes=None,
            utilization=None,
            idle_since=None,
            reason="The share was given back. The next cell starts a new kernel without variables.",
        )
        if self.relay.held:
            self._wake_if_released()

    def _interrupted(self) -> None:
        if self._state in (State.QUEUED, State.WAKING):
            self._chore(self._give_up("Waiting was interrupted."))
        elif self._exit_code is None and self._running is None:
            self.relay.discard("KeyboardInterrupt", "The cell was interrupted before it ran.")

    async def _give_up(self, reason: str) -> None:
        await self._abandon()
        self.relay.hold(HoldMode.WAITING)
        # Before the cells are answered: whoever sees the answer asks about the state next.
        self._update(
            state=State.RELEASED,
            queue=None,
            share=None,
            reason=f"{reason} Running a cell asks for the GPU again.",
        )
        self.relay.discard("KeyboardInterrupt", f"{reason} Run the cell again to ask for the GPU.")

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
        self._cancel_idle()
        self.runtime.lives.pop(self.kernel_id, None)
        try:
            await self._abandon()
            await asyncio.wrap_future(self.relay.detach())
            self._running = None
            await self.engine.stop(self.kernel_id)
        finally:
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
            self._update(
                state=State.STARTING if self._restarting else State.FAILED,
                reason=reason,
                idle_since=None,
                used_bytes=None,
                utilization=None,
            )
            self._start_grace()
        self._cancel_idle()
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
        self._update(
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

    # -- idleness ----------------------------------------------------------------------------

    def _note_activity(self, activity: Activity) -> None:
        if self._running is None:
            return
        if activity.busy:
            self._cancel_idle()
            self._update(state=State.ACTIVE, idle_since=None, reason="")
        elif self._idle_timer is None:
            self._update(idle_since=datetime.now(timezone.utc))
            self._idle_timer = self.runtime.loop.call_later(
                self.runtime.idle_policy.idle_after, self._idle
            )

    def _idle(self) -> None:
        if self._running and not self.busy:
            self._update(state=State.IDLE, reason="No cell runs or waits.")

    def _cancel_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # -- small helpers -----------------------------------------------------------------------

    @property
    def _state(self) -> State | None:
        row = self.runtime.table.get(self.kernel_id)
        return row.state if row else None

    @property
    def _size(self) -> str:
        return str(self._request.size) if self._request else ""

    def _update(self, **changes: Any) -> None:
        self.runtime.table.update(self.kernel_id, **changes)

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work, loop=self.runtime.loop)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _abandon(self) -> None:
        """Stop what this life is doing: waiting in the queue, starting, or watching the kernel.

        A start is undone; a kernel that runs already goes on until the engine ends it. The
        handling of a kernel's end is waited for.
        """
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return
        if not self._finishing:
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            _log.error("The life of kernel %s met an error", self.kernel_id, exc_info=error)
