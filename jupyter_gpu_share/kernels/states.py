"""The states of one kernel, as a table. Pure: no I/O, no clock, no asyncio.

:func:`step` takes the facts about a kernel and an event, and returns the facts that hold then and
the orders that follow. Everything that decides what becomes of a kernel is in this file; the
controller only carries out orders.

A kernel has one work at a time. An order for a work that comes while another is under way waits
for that one's end; the outcome of a work that was replaced is told to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .facts import Event, Facts, ImpossibleError, Order, Phase, Then, Work

__all__ = ["STEPS", "step"]

Step = tuple[Facts, tuple[Order, ...]]
Rule = Callable[[Facts], Step]


def step(facts: Facts, event: Event) -> Step:
    """What holds after an event, and what is to be done.

    Raises
    ------
    ImpossibleError: no such event can be now.
    """
    rule = STEPS.get((facts.phase, event))
    if rule is None:
        raise ImpossibleError(facts, event)
    return rule(facts)


# -- pieces of rules -------------------------------------------------------------------------------


def _to(facts: Facts, *orders: Order, **changes: Any) -> Step:
    return replace(facts, **changes), orders


def _stay(*orders: Order, **changes: Any) -> Rule:
    return lambda facts: _to(facts, *orders, **changes)


def _cancel(facts: Facts) -> tuple[Order, ...]:
    # What ends a process is not cut short: whoever comes next waits for it.
    uncut = (None, Work.UNDO, Work.STOP, Work.PARK, Work.FREE)
    return () if facts.work in uncut else (Order.CANCEL,)


def _kill(facts: Facts) -> tuple[Order, ...]:
    return (Order.KILL_PROCESS,) if facts.process else ()


def _ask(facts: Facts, *orders: Order, **changes: Any) -> Step:
    """Ask for a share: by its process where one lives on, else by a new one."""
    work = Work.WAKE if facts.process else Work.START
    changes = {"then": Then.NOTHING, "again": True, "queued": False, **changes}
    return _to(facts, *orders, Order.BEGIN, phase=Phase.WAITING, work=work, **changes)


def _launch(facts: Facts) -> Step:
    return _to(
        facts,
        *_cancel(facts),
        *_kill(facts),
        Order.BEGIN,
        phase=Phase.WAITING,
        work=Work.START,
        process=False,
        queued=False,
        again=False,
        then=Then.NOTHING,
        asked=None,
        unused=False,
        interrupted=False,
        expected=False,
    )


def _end(facts: Facts, *orders: Order, **changes: Any) -> Step:
    """End the process. Where none can be, Jupyter may see at once that it has ended."""
    over = () if facts.process else (Order.EXIT,)
    plain = {"then": Then.NOTHING, "again": False, "unused": False, "interrupted": False}
    changes = {**plain, **changes}
    return _to(
        facts,
        *_cancel(facts),
        *_kill(facts),
        Order.BEGIN,
        *over,
        *orders,
        phase=Phase.ENDING,
        work=Work.STOP,
        **changes,
    )


def _kill_now(facts: Facts) -> Step:
    return _end(facts)


def _end_for_good(facts: Facts) -> Step:
    return _end(facts, Order.ANSWER_CELLS, asked=Event.END, cells=False)


def _end_to_restart(facts: Facts) -> Step:
    return _end(facts, Order.ANSWER_CELLS, asked=Event.RESTART, cells=False)


def _close(facts: Facts) -> Step:
    return _end(facts, Order.ANSWER_CELLS, then=Then.CLOSE, cells=False)


def _close_parked(facts: Facts) -> Step:
    """Close, and leave what is saved. One that never started may be yet to be taken over."""
    saved = facts.again or facts == Facts()
    return _end(facts, Order.ANSWER_CELLS, then=Then.CLOSE, cells=False, again=saved)


def _park(facts: Facts) -> Step:
    """Close, but save first what a process has with it that lives on without its share."""
    if not (facts.process and facts.again):
        return _close_parked(facts)
    return _to(
        facts,
        *_cancel(facts),
        Order.BEGIN,
        Order.ANSWER_CELLS,
        phase=Phase.ENDING,
        work=Work.PARK,
        then=Then.CLOSE,
        cells=False,
    )


def _park_releasing(facts: Facts) -> Step:
    """The same of one that is about to leave its share: first to the end with that.

    What is saved because others end it may take longer than a server has that stops.
    """
    return _to(
        facts,
        *(_cancel(facts) if facts.work is Work.RESCUE else ()),
        Order.BEGIN,
        Order.ANSWER_CELLS,
        phase=Phase.ENDING,
        work=Work.PARK,
        then=Then.CLOSE,
        again=True,
        unused=False,
        cells=False,
    )


def _died(facts: Facts) -> Step:
    """The process is gone. Jupyter sees it at once, the rest is cleared up.

    What waits was meant for it, and for what it had in its variables.
    """
    return _to(
        facts,
        *_cancel(facts),
        Order.BEGIN,
        Order.EXIT,
        *((Order.ANSWER_CELLS,) if facts.cells else ()),
        phase=Phase.ENDING,
        work=Work.STOP,
        process=False,
        cells=False,
        then=Then.NOTHING,
        unused=False,
        interrupted=False,
    )


def _ended(facts: Facts) -> Step:
    """The process has been ended, and all that was under way."""
    facts = replace(facts, work=None, process=False, interrupted=False)
    if facts.then is Then.CLOSE:
        last = (Order.EXIT, Order.ANSWER_CELLS, Order.FORGET, Order.CLOSE_RELAY)
        return _to(facts, *last, phase=Phase.CLOSED, cells=False)
    if facts.asked is Event.END:
        orders = (Order.EXIT, Order.ANSWER_CELLS, Order.FORGET)
        return _to(facts, *orders, phase=Phase.OFF, cells=False, expected=False)
    return _to(facts, Order.EXIT, Order.GRACE, phase=Phase.OFF, expected=True)


def _give_up(facts: Facts, *orders: Order) -> Step:
    """Take the wish for a share back, and what waits with it."""
    return _to(
        facts,
        Order.CANCEL,
        Order.BEGIN,
        Order.ANSWER_CELLS,
        *orders,
        phase=Phase.SETTLING,
        work=Work.UNDO,
        cells=False,
        again=True,  # its notebook goes on without a share
        then=Then.NOTHING,
    )


def _leave_queue(facts: Facts) -> Step:
    """A share that comes in a moment is not given back: a cell may be on its way to it."""
    return _give_up(facts, Order.ATTEND) if facts.queued else _to(facts, Order.REFUSE)


def _failed(facts: Facts) -> Step:
    """No share came, or no kernel with it. What was had before is as it was."""
    facts = replace(facts, work=None, then=Then.NOTHING)
    if facts.again:
        process = facts.process and facts.phase is not Phase.STARTING
        return _to(facts, Order.ANSWER_CELLS, phase=Phase.RELEASED, cells=False, process=process)
    return _to(
        facts,
        Order.EXIT,
        Order.ANSWER_CELLS,
        Order.GRACE,
        phase=Phase.OFF,
        cells=False,
        process=False,
        expected=True,
    )


def _answered(facts: Facts) -> Step:
    return _to(
        facts,
        Order.ACCEPT,
        phase=Phase.RUNNING,
        work=None,
        process=True,
        cells=False,
        again=False,
        then=Then.NOTHING,
    )


def _goes_on(facts: Facts, *orders: Order) -> Step:
    """The kernel has not left; the relay has handed on what waited."""
    return _to(
        facts,
        *orders,
        phase=Phase.RUNNING,
        work=None,
        cells=False,
        unused=False,
        interrupted=False,
        then=Then.NOTHING,
    )


def _busy(facts: Facts) -> Step:
    """A cell was faster; it may be what an interrupt meant that came meanwhile."""
    return _goes_on(facts, *((Order.INTERRUPT_EARLIER,) if facts.interrupted else ()))


def _stays(facts: Facts) -> Step:
    """A release has failed; where its process has ended all the same, it is done."""
    if not facts.process:
        return _left(process=False)(facts)
    if facts.again:  # it was without its share before, and will end so
        return _failed(facts)
    return _goes_on(facts)


def _left(process: bool) -> Rule:
    def rule(facts: Facts) -> Step:
        facts = replace(facts, process=process, work=None, unused=False, interrupted=False)
        if facts.cells or facts.then is Then.WAKE:
            return _ask(facts)
        return _to(facts, phase=Phase.RELEASED, again=True)

    return rule


def _settled(facts: Facts) -> Step:
    facts = replace(facts, work=None)
    if facts.cells or facts.then is Then.WAKE:
        return _ask(facts, again=facts.again)
    return _to(facts, phase=Phase.RELEASED, again=True)


def _look(facts: Facts) -> Step:
    if facts.work is Work.RESCUE:
        return _to(facts, Order.DEFER)
    if facts.work is Work.LOOK:
        return _to(facts, Order.ATTEND)
    return _to(facts, Order.BEGIN, work=Work.LOOK)


def _leave(unused: bool) -> Rule:
    def rule(facts: Facts) -> Step:
        if facts.work is Work.RESCUE:
            return _to(facts, Order.REFUSE if unused else Order.DEFER)
        return _to(
            facts,
            *_cancel(facts),
            Order.BEGIN,
            phase=Phase.RELEASING,
            work=Work.RELEASE,
            unused=unused,
            then=Then.NOTHING,
        )

    return rule


def _cell_while_running(facts: Facts) -> Step:
    if facts.work is Work.LOOK:  # a look is never worth a wait
        return _to(facts, Order.CANCEL, cells=True)
    if facts.work is Work.RESCUE:  # the kernel is paused: it waits for the next pod
        return _to(facts, cells=True)
    return _to(facts)


def _cell_while_releasing(facts: Facts) -> Step:
    if facts.unused:  # somebody is back
        return _to(facts, Order.CANCEL, cells=True, unused=False)
    return _to(facts, cells=True)


def _interrupt_releasing(facts: Facts) -> Step:
    """Nobody runs what waits. That it was is kept: where a cell has run after all, it is meant."""
    wanted = facts.then if facts.work is not Work.RESCUE else Then.NOTHING  # as in the queue
    return _to(facts, Order.ANSWER_CELLS, cells=False, interrupted=True, then=wanted)


def _cell_while_off(facts: Facts) -> Step:
    if facts.expected:
        return _to(facts, cells=True)
    return _to(facts, Order.ANSWER_CELLS)


def _cell_while_ending(facts: Facts) -> Step:
    if facts.then is Then.CLOSE:
        return _to(facts, Order.ANSWER_CELLS)
    return _to(facts, cells=True)


def _close_ending(facts: Facts) -> Step:
    if facts.then is Then.CLOSE:
        return _to(facts, Order.ATTEND)
    return _end(facts, Order.ANSWER_CELLS, then=Then.CLOSE, cells=False)


def _interrupt_running(facts: Facts) -> Step:
    if facts.work is Work.LOOK:
        orders = (Order.CANCEL, Order.ANSWER_CELLS)
        return _to(facts, *orders, cells=False, interrupted=True)
    if facts.work is Work.RESCUE:  # which waits for the cell that runs
        return _to(facts, Order.ANSWER_CELLS, Order.INTERRUPT_PROCESS, cells=False)
    return _to(facts, Order.INTERRUPT_PROCESS)


def _end_running(facts: Facts, *orders: Order, **changes: Any) -> Step:
    if facts.work is not Work.RESCUE:
        return _to(facts, *_cancel(facts), *orders, **changes)
    # What waits for the next pod is not handed to a kernel that is about to end.
    return _to(facts, Order.ANSWER_CELLS, *_cancel(facts), *orders, cells=False, **changes)


def _resize_running(facts: Facts) -> Step:
    if facts.work is Work.RESCUE:
        return _to(facts, Order.DEFER)
    return _to(facts, *_cancel(facts), Order.BEGIN, phase=Phase.RESIZING, work=Work.RESIZE)


def _evicted_running(facts: Facts) -> Step:
    """Others end it: its variables are saved as soon as no cell runs, which has some time left."""
    if facts.work is Work.RESCUE or facts.asked is not None:
        return _to(facts)
    return _to(facts, *_cancel(facts), Order.BEGIN, work=Work.RESCUE, cells=False)


def _evicted_away(facts: Facts) -> Step:
    """The same of one that is without its share, which it may just be asking for."""
    if not facts.process:
        return _to(facts)  # it was one that is no more
    then = Then.WAKE if facts.phase is Phase.WAITING else Then.NOTHING
    return _to(
        facts,
        *_cancel(facts),
        Order.BEGIN,
        phase=Phase.RELEASING,
        work=Work.RESCUE,
        queued=False,
        then=then,
    )


def _evicted_meanwhile(facts: Facts) -> Step:
    """What is under way may save its variables itself; else it is looked at afterwards."""
    later = facts.process and facts.work is not Work.RESCUE
    return _to(facts, Order.DEFER) if later else _to(facts)


def _prepare(then: Then, *orders: Order) -> Rule:
    def rule(facts: Facts) -> Step:
        return _to(facts, *orders, Order.BEGIN, phase=Phase.SETTLING, work=Work.PREPARE, then=then)

    return rule


def _expired(facts: Facts) -> Step:
    if not facts.expected:
        return _to(facts)
    return _to(
        facts,
        Order.BEGIN,
        Order.ANSWER_CELLS,
        Order.FORGET,
        work=Work.FREE,
        cells=False,
        expected=False,
    )


def _expect(facts: Facts) -> Step:
    return _to(facts, Order.GRACE, expected=True)


# -- the table -------------------------------------------------------------------------------------

_P, _E = Phase, Event
_DROP = _stay(Order.ANSWER_CELLS, cells=False)
#: Of an interrupt it is kept that it was: where a cell has run after all, that one is meant.
_DROP_PAUSED = _stay(Order.ANSWER_CELLS, cells=False, interrupted=True)
_NOTHING = _stay()
_HELD = _stay(cells=True)
_WISHED = _stay(Order.ACCEPT)
_REFUSED = _stay(Order.REFUSE)
_DEFERRED = _stay(Order.DEFER)

_ALWAYS: Mapping[Event, Rule] = {
    _E.LAUNCH: _launch,
    _E.KILL: _kill_now,
    _E.TERMINATE: _kill_now,
    _E.END: _end_for_good,
    _E.RESTART: _end_to_restart,
    _E.CLOSE: _close,
    _E.PARK: _close_parked,
    _E.DIED: _died,
    _E.EVICTED: _evicted_meanwhile,
    _E.EXPIRED: _NOTHING,
    _E.EXPECT: _NOTHING,
}

_PARK = {(phase, _E.PARK): _park for phase in (_P.WAITING, _P.RESUMING, _P.RELEASED, _P.SETTLING)}

STEPS: dict[tuple[Phase, Event], Rule] = {
    (phase, event): rule
    for phase in (
        _P.WAITING,
        _P.STARTING,
        _P.RESUMING,
        _P.RUNNING,
        _P.RELEASING,
        _P.RELEASED,
        _P.RESIZING,
        _P.SETTLING,
    )
    for event, rule in _ALWAYS.items()
} | {
    **_PARK,
    (_P.RELEASING, _E.PARK): _park_releasing,
    # No process.
    (_P.OFF, _E.LAUNCH): _launch,
    (_P.OFF, _E.ADOPT): _stay(phase=_P.RELEASED, again=True, expected=False),
    (_P.OFF, _E.CELL): _cell_while_off,
    (_P.OFF, _E.WAKE): _REFUSED,
    (_P.OFF, _E.RELEASE): _REFUSED,
    (_P.OFF, _E.UNUSED): _REFUSED,
    (_P.OFF, _E.RESIZE): _REFUSED,
    (_P.OFF, _E.LOOK): _REFUSED,
    (_P.OFF, _E.INTERRUPT): _DROP,
    (_P.OFF, _E.TERMINATE): _stay(Order.EXIT),
    (_P.OFF, _E.KILL): _stay(Order.EXIT),
    (_P.OFF, _E.END): _stay(Order.EXIT, Order.ANSWER_CELLS, asked=_E.END, cells=False),
    (_P.OFF, _E.RESTART): _stay(Order.EXIT, asked=_E.RESTART),
    (_P.OFF, _E.EXPECT): _expect,
    (_P.OFF, _E.CLOSE): _close,
    (_P.OFF, _E.PARK): _close_parked,
    (_P.OFF, _E.EXPIRED): _expired,
    (_P.OFF, _E.EVICTED): _NOTHING,
    (_P.OFF, _E.DONE): _stay(work=None),
    (_P.OFF, _E.FAILED): _stay(work=None),
    # A share is asked for.
    (_P.WAITING, _E.CELL): _HELD,
    (_P.WAITING, _E.WAKE): _WISHED,
    (_P.WAITING, _E.RELEASE): _leave_queue,
    (_P.WAITING, _E.UNUSED): _REFUSED,
    (_P.WAITING, _E.RESIZE): _prepare(Then.WAKE, Order.CANCEL),
    (_P.WAITING, _E.LOOK): _REFUSED,
    (_P.WAITING, _E.INTERRUPT): _give_up,
    (_P.WAITING, _E.EVICTED): _evicted_away,
    (_P.WAITING, _E.QUEUED): _stay(queued=True),
    (_P.WAITING, _E.GRANTED): lambda f: _to(
        f,
        phase=_P.STARTING if f.work is Work.START else _P.RESUMING,
        process=True,
        queued=False,
    ),
    (_P.WAITING, _E.ANSWERED): _answered,
    (_P.WAITING, _E.FAILED): _failed,
    # It has come.
    (_P.STARTING, _E.CELL): _HELD,
    (_P.STARTING, _E.WAKE): _WISHED,
    (_P.STARTING, _E.RELEASE): _REFUSED,
    (_P.STARTING, _E.UNUSED): _REFUSED,
    (_P.STARTING, _E.RESIZE): _REFUSED,
    (_P.STARTING, _E.LOOK): _REFUSED,
    (_P.STARTING, _E.INTERRUPT): _DROP,
    (_P.STARTING, _E.EVICTED): _NOTHING,  # of an earlier process: this one is not watched yet
    (_P.STARTING, _E.QUEUED): _stay(phase=_P.WAITING, process=False, queued=True),
    (_P.STARTING, _E.GRANTED): _NOTHING,
    (_P.STARTING, _E.ANSWERED): _answered,
    (_P.STARTING, _E.FAILED): _failed,
    (_P.RESUMING, _E.CELL): _HELD,
    (_P.RESUMING, _E.WAKE): _WISHED,
    (_P.RESUMING, _E.RELEASE): _REFUSED,
    (_P.RESUMING, _E.UNUSED): _REFUSED,
    (_P.RESUMING, _E.RESIZE): _REFUSED,
    (_P.RESUMING, _E.LOOK): _REFUSED,
    (_P.RESUMING, _E.INTERRUPT): _DROP,
    (_P.RESUMING, _E.QUEUED): _stay(phase=_P.WAITING, queued=True),
    (_P.RESUMING, _E.GRANTED): _NOTHING,
    (_P.RESUMING, _E.ANSWERED): _answered,
    (_P.RESUMING, _E.FAILED): _failed,
    # The kernel answers.
    (_P.RUNNING, _E.CELL): _cell_while_running,
    (_P.RUNNING, _E.WAKE): _WISHED,
    (_P.RUNNING, _E.RELEASE): _leave(unused=False),
    (_P.RUNNING, _E.UNUSED): _leave(unused=True),
    (_P.RUNNING, _E.RESIZE): _resize_running,
    (_P.RUNNING, _E.LOOK): _look,
    (_P.RUNNING, _E.INTERRUPT): _interrupt_running,
    (_P.RUNNING, _E.TERMINATE): lambda f: _end_running(f, Order.TERMINATE_PROCESS),
    # The relay has handed it on, and the kernel ends in its own way.
    (_P.RUNNING, _E.END): lambda f: _end_running(f, asked=_E.END),
    (_P.RUNNING, _E.RESTART): lambda f: _end_running(f, asked=_E.RESTART),
    (_P.RUNNING, _E.EVICTED): _evicted_running,
    (_P.RUNNING, _E.LEAVES): _stay(phase=_P.RELEASING, unused=False, interrupted=False),
    (_P.RUNNING, _E.UNSAVED): _NOTHING,
    (_P.RUNNING, _E.LOOKED): _goes_on,
    (_P.RUNNING, _E.BUSY): _busy,
    (_P.RUNNING, _E.FAILED): _goes_on,
    # It leaves its share.
    (_P.RELEASING, _E.CELL): _cell_while_releasing,
    (_P.RELEASING, _E.WAKE): lambda f: _to(f, Order.ACCEPT, then=Then.WAKE),
    (_P.RELEASING, _E.RELEASE): lambda f: (
        _to(f, Order.ATTEND, unused=False) if f.work is Work.RELEASE else _to(f, Order.DEFER)
    ),
    (_P.RELEASING, _E.UNUSED): _REFUSED,
    (_P.RELEASING, _E.RESIZE): _DEFERRED,
    (_P.RELEASING, _E.LOOK): _DEFERRED,
    (_P.RELEASING, _E.INTERRUPT): _interrupt_releasing,
    (_P.RELEASING, _E.COMMITS): _stay(unused=False),
    (_P.RELEASING, _E.ENDS): _stay(process=False, unused=False),
    (_P.RELEASING, _E.UNSAVED): _NOTHING,
    (_P.RELEASING, _E.LEFT): _left(process=True),
    (_P.RELEASING, _E.SAVED): _left(process=False),
    (_P.RELEASING, _E.BUSY): _busy,
    (_P.RELEASING, _E.FAILED): _stays,
    # It has left it.
    (_P.RELEASED, _E.CELL): lambda f: _ask(f, cells=True),
    (_P.RELEASED, _E.WAKE): lambda f: _ask(f, Order.ACCEPT),
    (_P.RELEASED, _E.RELEASE): _WISHED,
    (_P.RELEASED, _E.UNUSED): _WISHED,
    (_P.RELEASED, _E.RESIZE): _prepare(Then.NOTHING),
    (_P.RELEASED, _E.LOOK): _REFUSED,
    (_P.RELEASED, _E.INTERRUPT): _DROP,
    (_P.RELEASED, _E.EVICTED): _evicted_away,
    # Its share is being changed.
    (_P.RESIZING, _E.CELL): _HELD,
    (_P.RESIZING, _E.WAKE): _WISHED,
    (_P.RESIZING, _E.RELEASE): _DEFERRED,
    (_P.RESIZING, _E.UNUSED): _REFUSED,
    (_P.RESIZING, _E.RESIZE): _DEFERRED,
    (_P.RESIZING, _E.LOOK): _DEFERRED,
    (_P.RESIZING, _E.INTERRUPT): _DROP_PAUSED,
    (_P.RESIZING, _E.LEAVES): _stay(phase=_P.RELEASING, then=Then.WAKE),
    (_P.RESIZING, _E.CHANGED): _goes_on,
    (_P.RESIZING, _E.BUSY): _busy,
    (_P.RESIZING, _E.FAILED): _goes_on,
    # Nothing is held, and something is being settled.
    (_P.SETTLING, _E.CELL): _HELD,
    (_P.SETTLING, _E.WAKE): lambda f: _to(f, Order.ACCEPT, then=Then.WAKE),
    (_P.SETTLING, _E.RELEASE): lambda f: _to(
        f, Order.ANSWER_CELLS, Order.ATTEND, cells=False, then=Then.NOTHING
    ),
    (_P.SETTLING, _E.UNUSED): _REFUSED,
    (_P.SETTLING, _E.RESIZE): _DEFERRED,
    (_P.SETTLING, _E.LOOK): _DEFERRED,
    (_P.SETTLING, _E.INTERRUPT): _stay(Order.ANSWER_CELLS, cells=False, then=Then.NOTHING),
    (_P.SETTLING, _E.DONE): _settled,
    (_P.SETTLING, _E.FAILED): _settled,
    # The process is being ended.
    (_P.ENDING, _E.LAUNCH): lambda f: _to(f, Order.REFUSE) if f.then is Then.CLOSE else _launch(f),
    (_P.ENDING, _E.CELL): _cell_while_ending,
    (_P.ENDING, _E.WAKE): _REFUSED,
    (_P.ENDING, _E.RELEASE): _REFUSED,
    (_P.ENDING, _E.UNUSED): _REFUSED,
    (_P.ENDING, _E.RESIZE): _REFUSED,
    (_P.ENDING, _E.LOOK): _REFUSED,
    (_P.ENDING, _E.INTERRUPT): _DROP,
    (_P.ENDING, _E.TERMINATE): lambda f: _to(f, *_kill(f)),
    (_P.ENDING, _E.KILL): lambda f: _to(f, *_kill(f)),
    # What was kept for a restart goes too.
    (_P.ENDING, _E.END): lambda f: _to(
        f,
        *_kill(f),
        *(() if f.asked is _E.END or f.then is Then.CLOSE else (Order.BEGIN,)),
        Order.ANSWER_CELLS,
        asked=_E.END,
        cells=False,
    ),
    (_P.ENDING, _E.RESTART): lambda f: _to(f, *_kill(f), asked=_E.RESTART),
    (_P.ENDING, _E.EXPECT): _NOTHING,
    (_P.ENDING, _E.EXPIRED): _NOTHING,
    (_P.ENDING, _E.CLOSE): _close_ending,
    (_P.ENDING, _E.PARK): _close_ending,
    (_P.ENDING, _E.EVICTED): _NOTHING,
    (_P.ENDING, _E.DIED): _stay(Order.EXIT, process=False),
    (_P.ENDING, _E.DONE): _ended,
    (_P.ENDING, _E.FAILED): _ended,
    # It is over.
    (_P.CLOSED, _E.CELL): _stay(Order.ANSWER_CELLS),
    **{
        (_P.CLOSED, event): _REFUSED
        for event in (
            _E.LAUNCH,
            _E.WAKE,
            _E.RELEASE,
            _E.UNUSED,
            _E.RESIZE,
            _E.LOOK,
        )
    },
    **{
        (_P.CLOSED, event): _NOTHING
        for event in (
            _E.INTERRUPT,
            _E.TERMINATE,
            _E.KILL,
            _E.END,
            _E.RESTART,
            _E.EXPECT,
            _E.CLOSE,
            _E.PARK,
            _E.EVICTED,
            _E.EXPIRED,
        )
    },
}
