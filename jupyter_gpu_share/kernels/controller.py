"""The controller of one kernel: its inbox, and the only holder of its state.

Hooks of Jupyter, the relay, the engine, the REST routes and the idle rule tell it what happens.
It asks the table what follows and carries that out: at most one work at a time, whose end it
awaits before the next begins. All methods are for the runtime's loop unless marked otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from .._threads import in_thread
from ..allocations import AllocationTable, State
from ..engines.base import Engine, Exit, KernelRequest, Running, Starting, Usage, Waiting
from ..engines.idle_shares import AskedBack
from ..errors import GpuShareError, NotPossible
from ..idle import IdlePolicy, Situation
from ..relay import Activity, HoldMode, Relay, RelayEvents
from ..sentences import paragraph, say, words_of
from ..size import Size
from . import _projection as projection
from ._checkpoint import Look
from ._context import WorkContext
from ._details import Details
from ._history import KernelHistory
from ._idle_rule import IdleRule, Use
from ._release import Left, WouldLoseError
from ._resize import Resized
from ._works import Task, Told, Works, settle, work_of
from .facts import Event, Facts, ImpossibleError, Order, Phase, Then, Work
from .saved import Note, was_told
from .states import step

__all__ = ["Controller", "Surroundings"]

_log = logging.getLogger(__name__)

#: jupyter_client looks every 3 s whether a kernel died, and starts it again; until then its share
#: is not given to anybody else.
_RESTART_GRACE = 15.0
#: So many events are remembered to tell how an impossible one came about.
_STORY = 40
_SIGNALS = {
    Order.KILL_PROCESS: signal.SIGKILL,
    Order.INTERRUPT_PROCESS: signal.SIGINT,
    Order.TERMINATE_PROCESS: signal.SIGTERM,
}
#: After these no work under way comes to its end, for the kernel does.
_ENDS = {Event.DIED, Event.KILL, Event.TERMINATE, Event.END, Event.RESTART, Event.CLOSE}
#: Exit codes of kernels that end without a process, as Jupyter sees them.
_EXITS = {Event.FAILED: 1, Event.KILL: -signal.SIGKILL, Event.TERMINATE: -signal.SIGTERM}
_ANSWERING = (Phase.RUNNING, Phase.RELEASING, Phase.RESIZING)


@dataclass(frozen=True)
class Surroundings:
    """What a controller knows of the process that it is in.

    Attributes
    ----------
    table: where it shows the kernel.
    policy: the administrator's rules.
    cull: ends the kernel as a user would; posts the wish and returns.
    root: folder of notebooks of the Jupyter server; None where there is none.
    session: under which Jupyter's own manager of the kernel sends messages.
    """

    table: AllocationTable
    policy: IdlePolicy
    loop: asyncio.AbstractEventLoop
    cull: Callable[[str], None]
    root: str | None = None
    session: str = ""


class Controller(RelayEvents):
    """One kernel, over all processes that ever run it."""

    def __init__(self, context: WorkContext, surroundings: Surroundings) -> None:
        self.kernel_id = context.kernel_id
        self.engine: Engine = context.engine
        self.relay: Relay = context.relay
        self.keeper = context.keeper
        #: Set by a change of size that needs a restart; the next start takes it.
        self.next_size: Size | None = None
        self.rule = IdleRule(surroundings.policy)
        self.history = KernelHistory()
        self._context = replace(context, say=self._progress)
        self._surroundings = surroundings
        self._facts = Facts()
        self._details = Details()
        self._inbox: deque[Told] = deque()
        self._telling = False
        self._story: deque[str] = deque(maxlen=_STORY)
        self._works = Works(self.kernel_id, self._work_ended)
        self._deferred: list[Told] = []
        self._owned: set[asyncio.Future[Any]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._launched = _now()
        self._relay_closed: asyncio.Future[None] | None = None
        self._shown = False
        self._hold: tuple[HoldMode, str] | None = None
        #: How often what waits at the relay was answered; wishes from before are answered too.
        self._epoch = 0
        #: The last interrupt of cells that waited, and how many had been sent by then.
        self._interrupting: asyncio.Future[Any] | None = None
        self._meant = 0

    # -- may be read from any thread ---------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        """What holds now."""
        return self._facts

    @property
    def exit_code(self) -> int | None:
        """None while the kernel runs, is queued or has given its share back."""
        return self._details.exit_code

    @property
    def busy(self) -> bool:
        """True while a cell runs or waits."""
        return self.relay.activity.busy

    @property
    def answers(self) -> bool:
        """True while a process holds the share and answers."""
        return self._facts.phase in _ANSWERING

    @property
    def request(self) -> KernelRequest | None:
        """What was asked for last."""
        return self._details.request

    @property
    def running(self) -> Running | None:
        """The process that answers, or lives on without its share."""
        return self._details.running if self._facts.process else None

    @property
    def state(self) -> State | None:
        """As users know it; None before the first start."""
        return projection.state(self._facts, self._details) if self._shown else None

    @property
    def independent(self) -> bool:
        """True where the kernel is to survive this process."""
        return self.request is not None and bool(self.request.options.get("independent"))

    @property
    def died(self) -> bool:
        """True where the last process ended without being asked to."""
        facts = self._facts
        ended = self.request is not None and facts.phase in (Phase.OFF, Phase.ENDING)
        return ended and facts.asked is None

    # -- RelayEvents: called on the relay's thread -------------------------------------------------

    def wanted(self, epoch: int) -> None:
        """A cell was run while the relay does not carry."""
        self._post(lambda: self._cell(epoch))

    def interrupted(self, header: Mapping[str, Any]) -> None:
        """The user interrupts while the relay does not carry."""
        self._post(lambda: self._asked(Event.INTERRUPT, header))

    def shutdown(self, restart: bool, header: Mapping[str, Any]) -> None:
        """A client asks the kernel to end while the relay does not carry."""
        event = Event.RESTART if restart else Event.END
        self._post(lambda: self._asked(event, header))

    def activity(self, activity: Activity) -> None:
        """Cells were sent, or are done."""
        self._post(lambda: self._used(activity))

    def _post(self, work: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._surroundings.loop.call_soon_threadsafe(work)

    def _asked(self, event: Event, header: Mapping[str, Any]) -> None:
        """A client asks by message, which may be read when the next process starts already.

        Jupyter's own manager sends some before each restart. Its clock is this process's.
        """
        sent = header.get("date")
        own = header.get("session") == self._surroundings.session
        if not (own and isinstance(sent, datetime) and sent < self._launched):
            self.tell(event)

    def _cell(self, epoch: int) -> None:
        if epoch >= self._epoch:  # else it has been answered since
            self.tell(Event.CELL)

    # -- for what is asked of the kernel -----------------------------------------------------------

    @property
    def note(self) -> Note | None:
        """Whose its saved variables are; None where no other server could know."""
        request, root = self._details.request, self._surroundings.root
        if request is None or root is None:
            return None
        path = self._details.path
        return Note(self.kernel_id, request.kernel_name, str(request.size), root, path)

    @property
    def situation(self) -> Situation:
        """The share as the idle policy is to judge it. There must have been a request."""
        request = self._details.request
        assert request is not None
        return self.rule.situation(
            _now(),
            size=request.size,
            group=self._surroundings.policy.group_of(request.user or ""),
            keep_until=self._details.keep_until,
        )

    def _wish(self, event: Event, **data: Any) -> asyncio.Future[Any]:
        """Tell of a wish; the future has its outcome. It is done even if nobody waits for it."""
        waiter: asyncio.Future[Any] = self._surroundings.loop.create_future()
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.tell(event, waiter=waiter, **data)
        return waiter

    def _attend(self, waiter: asyncio.Future[Any] | None = None) -> asyncio.Future[Any] | None:
        """The end of what was ordered last; None where nothing is under way."""
        task = self._works.last
        if task is None:
            settle(waiter)
            return None
        waiter = waiter or self._surroundings.loop.create_future()
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.waiters.append(waiter)
        return waiter

    # -- what is noted -----------------------------------------------------------------------------

    def keep(self, until: datetime | None) -> None:
        """Keep the share until a moment even if unused; None takes that back."""
        self._details.keep_until = until
        self._show()
        self._decide()

    async def move(self, path: str | None) -> None:
        """The kernel's notebook has another path now. Shown when it is stored."""
        self._details.path = path
        if (note := self.note) is not None:
            await self.keeper.renote(note)
        try:
            await self.engine.note_path(self.kernel_id, path)
        except GpuShareError as error:
            _log.warning(
                "Kernel %s is shown to others under its old path: %s", self.kernel_id, error
            )
        self._show()

    def reading(self, usage: Usage) -> None:
        """What the kernel uses of its GPU."""
        own = self.engine.own_utilization or bool(
            self._details.share and self._details.share.simulated
        )
        self._details.used_bytes = usage.used_bytes
        self._details.use = Use(usage.utilization, own)
        if self.answers:
            self.history.reading(_now(), usage.used_bytes, usage.utilization)
        self._show()
        if usage.notice:
            self.relay.notify(usage.notice)

    def wanted_by_others(self, asked: AskedBack | None) -> None:
        """Somebody waits for a share that this one's return makes room for; None: nobody."""
        if asked is not None and asked.taken and not self._details.taken:
            self._details.taken = True
            self._show()
        if self.rule.wanted(asked, _now()):
            self._decide()

    @property
    def unused(self) -> bool:
        """True while it holds a share that may go to somebody who waits."""
        facts, details = self._facts, self._details
        return (
            facts.phase is Phase.RUNNING
            and details.idle is State.IDLE
            and not self.relay.activity.busy
        )

    @property
    def leaves_at(self) -> datetime | None:
        """When its idle share goes back if nothing changes; None where it stays, or who knows."""
        if not self.unused or self._details.next is None:
            return None
        return self.rule.release_at(self.situation)

    def _progress(self, text: str) -> None:
        """How far a work is, which is shown in place of the reason."""
        if text != self._details.progress:
            self._details.progress = text
            self._show()

    # -- the inbox ---------------------------------------------------------------------------------

    def tell(self, event: Event, **data: Any) -> None:
        """Take note of an event, and do what follows of it."""
        self._inbox.append(Told(event, **data))
        self._drain()

    def _drain(self) -> None:
        if self._telling:
            return
        self._telling = True
        try:
            while self._inbox:
                self._take(self._inbox.popleft())
        finally:
            self._telling = False

    def _take(self, told: Told) -> None:
        before = self._facts
        try:
            self._facts, orders = step(before, told.event)
        except ImpossibleError as error:
            story = " > ".join(self._story)
            _log.exception("Kernel %s met what cannot be. Its story: %s", self.kernel_id, story)
            settle(told.waiter, error=error)
            return
        self._story.append(f"{told.event.name}:{self._facts.phase.name}")
        self._note(told, before)
        self._show()
        self._leave_relay(told.event, before)
        for order in orders:
            self._carry_out(order, told, before)
        self._follow_process()
        self._decide()

    def _leave_relay(self, event: Event, before: Facts) -> None:
        """Take a process that ends from the relay, before anything else can be handed to it."""
        ends = self._facts.phase is Phase.ENDING and before.phase is not Phase.ENDING
        if self._facts.work is Work.PARK:
            return  # what it has with it is asked for first
        if ends or (event is Event.LAUNCH and before.process):
            self.relay.detach(gone=event is Event.DIED)

    def _note(self, told: Told, before: Facts) -> None:
        """Have the details say what came with the event."""
        facts, details, result = self._facts, self._details, told.result
        phase = facts.phase
        closes = phase is Phase.CLOSED or facts.then is Then.CLOSE
        if told.request is not None and not closes:
            self._begin_anew(told.request)
        details.exit = told.exit or details.exit
        if told.removal is not None:
            details.removed = told.removal.reason
        elif before.work is Work.RESCUE and (known := self.engine.removal(self.kernel_id)):
            details.removed = known.reason  # the cluster may have said it after the agent
        if told.event is Event.UNSAVED and told.error is not None:
            details.unsaved = words_of(told.error)
        if isinstance(told.news, Waiting):
            details.waits(told.news)
        elif isinstance(told.news, Starting):
            details.starts(told.news, self.engine.sharing)
        if isinstance(result, Running):
            details.answered(result)
            if details.request is not None and details.request.path != details.path:
                self._own(self.engine.note_path(self.kernel_id, details.path))
        elif isinstance(result, Left | Look) and told.size is None:
            details.kept = result.kept
        elif isinstance(result, Resized):
            details.resized(result.size, result.share)
            details.kept = result.left.kept if result.left is not None else details.kept
        elif isinstance(result, Size):
            details.set_size(result)
        if told.event is Event.SAVED and details.request and details.request.path != details.path:
            self._own(self._renote())  # it was renamed while it was saved
        if isinstance(told.error, WouldLoseError):
            details.kept = told.error.kept
        if phase in (Phase.RELEASED, Phase.SETTLING) or _is_over(facts) or _leaves(before, facts):
            details.without_share()
        if phase is Phase.WAITING and before.phase is Phase.RELEASED and self.next_size:
            details.set_size(self.next_size)
            self.next_size = None
        if told.event is Event.FAILED and phase in (Phase.OFF, Phase.RELEASED):
            details.reason = words_of(told.error) if told.error is not None else ""
            details.without_share()
        elif (reason := projection.reason(told.event, before, facts, details)) is not None:
            details.reason = reason
        left = result.left if isinstance(result, Resized) else result
        if isinstance(left, Left) and left.unanswered and phase is Phase.RELEASED:
            details.reason = paragraph(details.reason, say("share-not-confirmed"))
        if not self.answers:
            details.rest()
        self._note_for_rule(told, before)

    async def _renote(self) -> None:
        if (note := self.note) is not None:
            await self.keeper.renote(note)

    def _note_for_rule(self, told: Told, before: Facts) -> None:
        """Have the idle rule know what concerns it."""
        phase, was, now = self._facts.phase, before.phase, _now()
        if phase is Phase.RELEASED and was is not Phase.RELEASED:
            self.rule.released(now)
        elif phase is Phase.RUNNING and was not in _ANSWERING:
            self.rule.returned(now)
        if isinstance(told.result, Look) and told.size is None:
            self.rule.looked(told.result, self._details.use, now)
        elif told.error is not None and before.work in (Work.LOOK, Work.RELEASE):
            self.rule.refused(told.error, now, busy=told.event is Event.BUSY)
        elif told.event is Event.FAILED and before.work in (Work.LOOK, Work.RELEASE):
            self.rule.cut_short(now)

    def _begin_anew(self, request: KernelRequest) -> None:
        """Jupyter starts the kernel, or it is taken over."""
        saved = self._facts.phase is Phase.RELEASED
        self._details.begin(request, saved=saved)
        if not saved:  # now, as the start may be given up before it comes to that
            self._own(in_thread(self.keeper.discard))
        self.keeper.language = request.language
        self._launched = _now()
        self._ended.clear()
        self._shown = True
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    # -- orders ------------------------------------------------------------------------------------

    def _carry_out(self, order: Order, told: Told, before: Facts) -> None:
        """Do what a step has ordered."""
        facts = self._facts
        if told.event in _ENDS and order in (Order.BEGIN, Order.CANCEL):
            self._works.kernel_ends()
        if order is Order.BEGIN:
            self._begin(told)
        elif order is Order.CANCEL:
            self._works.cancel()
        elif order in _SIGNALS:
            self._own(self.engine.signal(self.kernel_id, _SIGNALS[order]))
        elif order is Order.EXIT:
            self._set_exit(told.event)
        elif order is Order.ANSWER_CELLS:
            self._epoch += 1
            dropped = self.relay.discard(
                *projection.words(told.event, facts, told.error, told.exit)
            )
            if told.event is Event.INTERRUPT:
                work = self._interrupt(asyncio.wrap_future(dropped), waited=before.cells)
                self._interrupting = self._own(work)
        elif order is Order.INTERRUPT_EARLIER:
            self._own(self._interrupt_earlier())
        elif order is Order.GRACE:
            self._start_grace()
        elif order is Order.FORGET:
            self._shown = False
            self._surroundings.table.remove(self.kernel_id)
        elif order is Order.ACCEPT:
            settle(told.waiter)
        elif order is Order.ATTEND:
            self._attend(told.waiter)
        elif order is Order.DEFER:
            self._deferred.append(told)
        elif order is Order.REFUSE:
            settle(told.waiter, error=NotPossible(projection.refusal(told.event, facts)))
        elif order is Order.CLOSE_RELAY:
            self._stop_timers()
            self._relay_closed = asyncio.wrap_future(self.relay.close())

    async def _interrupt(self, dropped: asyncio.Future[int], *, waited: bool) -> None:
        """The user interrupts while the relay holds cells, as far as is known.

        Where it has just handed on what was to be dropped, the kernel is meant.
        """
        number = await dropped
        self._meant = (await asyncio.wrap_future(self.relay.count())).cells_sent
        if waited and not number and self._facts.process and self.busy:
            await self.engine.signal(self.kernel_id, signal.SIGINT)

    async def _interrupt_earlier(self) -> None:
        """Interrupt a cell that was sent before the last interrupt, and no later one."""
        if self._interrupting is not None:
            await asyncio.wait({self._interrupting})
        now = await asyncio.wrap_future(self.relay.count())
        if now.busy and now.cells_sent - now.pending_cells < self._meant:
            await self.engine.signal(self.kernel_id, signal.SIGINT)

    def _set_exit(self, event: Event) -> None:
        details = self._details
        if details.exit_code is None:
            code = _EXITS.get(event, 0)
            if event is Event.DONE and self._facts.phase is not Phase.CLOSED:
                code = -signal.SIGKILL
            details.exit_code = details.exit.code if details.exit is not None else code
        self._ended.set()

    def _start_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self._grace = self._surroundings.loop.call_later(
            _RESTART_GRACE, lambda: self.tell(Event.EXPIRED)
        )

    def _stop_timers(self) -> None:
        for timer in (self._grace, self._timer):
            if timer is not None:
                timer.cancel()
        self._grace = self._timer = None

    # -- works -------------------------------------------------------------------------------------

    def _begin(self, told: Told) -> None:
        """Have the work that the facts name done, after the end of the one under way."""
        work = self._facts.work
        assert work is not None
        task = Task(work)

        def tell(event: Event, **data: Any) -> None:
            if self._works.last is task:  # else it was replaced
                self.tell(event, **data)

        task.run = work_of(
            work,
            told,
            context=self._context,
            facts=self._facts,
            details=self._details,
            seen=self.rule.seen,
            note=lambda: self.note,
            tell=tell,
        )
        if told.waiter is not None:
            task.waiters.append(told.waiter)
        self._works.begin(task)

    def _work_ended(self, task: Task, outcome: Told) -> None:
        """Take note of how a work has ended, and look at wishes again that waited for that."""
        self._inbox.append(outcome)
        self._drain()
        task.settle(outcome)
        deferred, self._deferred = self._deferred, []
        self._inbox += deferred
        self._drain()

    def _follow_process(self) -> None:
        """Notice the end of the process that answers, or lives on without its share."""
        facts = self._facts
        if not facts.process:
            if self._watcher is not None:
                self._watcher.cancel()
                self._watcher = None
        elif facts.phase is Phase.RUNNING and self._watcher is None:
            self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        removal = asyncio.ensure_future(self._watch_removal())
        try:
            ended = await self.engine.wait(self.kernel_id)
        except Exception as error:
            _log.exception("Kernel %s cannot be watched", self.kernel_id)
            ended = Exit(1, say("not-watched", cause=words_of(error)))
        finally:
            removal.cancel()
        self._watcher = None
        self.tell(Event.DIED, exit=ended)

    async def _watch_removal(self) -> None:
        """Notice that others end what the process runs in, and leave it some time."""
        try:
            removal = await self.engine.removed(self.kernel_id)
        except Exception:
            _log.exception("Kernel %s cannot be watched for its removal", self.kernel_id)
        else:
            self.tell(Event.EVICTED, removal=removal)

    def _own(self, work: Coroutine[Any, Any, object]) -> asyncio.Future[Any]:
        """Have something done beside, and hold on to it until it is."""
        task: asyncio.Future[Any] = asyncio.ensure_future(_logged(work, self.kernel_id))
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return task

    # -- what is shown, and the idle rule ----------------------------------------------------------

    def _show(self) -> None:
        """Have everybody see the kernel as it is, and the relay behave so."""
        if not self._shown:
            return
        row = projection.allocation(self.kernel_id, self.engine.name, self._facts, self._details)
        self.history.stands(row, _now())
        self._surroundings.table.put(row)
        hold = projection.hold(self._facts, self._details)
        if hold != self._hold:
            self._hold = hold
            self.relay.hold(*hold)

    def _used(self, activity: Activity) -> None:
        self.rule.used(activity, _now())
        for told in self.keeper.have_said(activity):
            self._own(in_thread(was_told, told))
        self._decide()

    def _decide(self) -> None:
        """Do what the idle rule says, and look again when it says so."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        facts, details = self._facts, self._details
        if not self._shown or facts.work is not None:
            return
        if facts.phase not in (Phase.RUNNING, Phase.RELEASED):
            return
        decision = self.rule.decide(self.situation, details.use)
        details.decided(decision)
        self._show()
        if decision.at is not None:
            left = max(0.0, (decision.at - _now()).total_seconds())
            self._timer = self._surroundings.loop.call_later(left, self._decide)
        if decision.cull:
            self._surroundings.cull(self.kernel_id)
        elif decision.wish is not None:
            self.tell(decision.wish, lose_variables=self.rule.lose_variables)


async def _logged(work: Coroutine[Any, Any, object], kernel_id: str) -> None:
    try:
        await work
    except GpuShareError as error:
        _log.warning("Kernel %s: %s", kernel_id, error)


def _is_over(facts: Facts) -> bool:
    """Whether nobody will start the kernel again."""
    return facts.phase is Phase.OFF and not facts.expected


def _leaves(before: Facts, facts: Facts) -> bool:
    """Whether the share is gone that was held, or goes with the process.

    It is kept for a restart where the kernel had it for sure. What a work that is cut short has
    given back of it, nobody knows.
    """
    if facts.phase is Phase.ENDING:
        unsure = before.phase in (Phase.WAITING, Phase.STARTING, Phase.RELEASING)
        return unsure or facts.asked is Event.END
    return before.phase is Phase.RELEASING and facts.phase is Phase.WAITING


def _now() -> datetime:
    return datetime.now(timezone.utc)
