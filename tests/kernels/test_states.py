"""The table of a kernel's states: every order of events, and what must hold in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from jupyter_gpu_share.kernels.facts import (
    Event,
    Facts,
    ImpossibleError,
    Order,
    Phase,
    Then,
    Work,
)
from jupyter_gpu_share.kernels.states import STEPS, step

#: What may come at any time, whatever the kernel does.
ANYTIME = (
    Event.LAUNCH,
    Event.CELL,
    Event.WAKE,
    Event.RELEASE,
    Event.UNUSED,
    Event.RESIZE,
    Event.LOOK,
    Event.INTERRUPT,
    Event.TERMINATE,
    Event.KILL,
    Event.END,
    Event.RESTART,
    Event.EXPECT,
    Event.CLOSE,
    Event.PARK,
    Event.EVICTED,  # told again later, it may be of a process that is no more
    Event.DIED,
    Event.EXPIRED,
)
#: Works by the phases that they belong to; None: nothing needs to be under way.
WORKS: dict[Phase, set[Work | None]] = {
    Phase.OFF: {None, Work.FREE},
    Phase.WAITING: {Work.START, Work.WAKE},
    Phase.STARTING: {Work.START},
    Phase.RESUMING: {Work.WAKE},
    Phase.RUNNING: {None, Work.LOOK, Work.RESCUE},
    Phase.RELEASING: {Work.RELEASE, Work.RESIZE, Work.RESCUE},
    Phase.RELEASED: {None},
    Phase.RESIZING: {Work.RESIZE},
    Phase.SETTLING: {Work.UNDO, Work.PREPARE},
    Phase.ENDING: {Work.STOP, Work.PARK},
    Phase.CLOSED: {None},
}
#: Works that end by themselves within moments; they are waited for, not cut short.
SHORT = (None, Work.UNDO, Work.STOP, Work.PARK, Work.FREE)
#: Where a process may live on without its share.
PARKED = (Phase.RELEASED, Phase.WAITING, Phase.RESUMING, Phase.SETTLING)
WISHES = (Event.WAKE, Event.RELEASE, Event.UNUSED, Event.RESIZE, Event.LOOK)


def outcomes(facts: Facts) -> tuple[Event, ...]:
    """What the work under way may say next, and how it may end."""
    work, phase = facts.work, facts.phase
    if work in (Work.START, Work.WAKE):
        return (Event.QUEUED, Event.GRANTED, Event.ANSWERED, Event.FAILED)
    if work is Work.LOOK:
        return (Event.LOOKED, Event.BUSY, Event.FAILED)
    if work is Work.RESCUE and phase is Phase.RUNNING:
        return (Event.LEAVES, Event.UNSAVED, Event.FAILED)
    if work is Work.RESCUE and facts.process:
        return (Event.ENDS, Event.UNSAVED, Event.FAILED)
    if work is Work.RESCUE:
        return (Event.SAVED, Event.FAILED)
    if work is Work.RESIZE and phase is Phase.RESIZING:
        return (Event.CHANGED, Event.LEAVES, Event.BUSY, Event.FAILED)
    if work in (Work.RELEASE, Work.RESIZE):
        if not facts.process:
            return (Event.SAVED, Event.FAILED)
        return (Event.COMMITS, Event.ENDS, Event.LEFT, Event.BUSY, Event.FAILED)
    if work in (Work.UNDO, Work.PREPARE, Work.STOP, Work.PARK, Work.FREE):
        return (Event.DONE, Event.FAILED)
    return ()


def possible(facts: Facts) -> Iterator[Event]:
    for event in ANYTIME:
        if event is Event.DIED and not facts.process:
            continue  # the controller listens to no process any more
        yield event
    if facts == Facts():
        yield Event.ADOPT
    yield from outcomes(facts)


def walk() -> tuple[dict[Facts, tuple[Event, ...]], list[tuple[Facts, Event]]]:
    """Every situation with the shortest way to it, and every step."""
    ways: dict[Facts, tuple[Event, ...]] = {Facts(): ()}
    left, steps = [Facts()], []
    while left:
        facts = left.pop(0)
        for event in possible(facts):
            steps.append((facts, event))
            after, _ = step(facts, event)
            if after not in ways:
                ways[after] = (*ways[facts], event)
                left.append(after)
    return ways, steps


WAYS, WALKED = walk()


def story(facts: Facts, event: Event) -> str:
    return " ".join(each.name for each in (*WAYS[facts], event))


def test_every_order_of_events_is_walked() -> None:
    assert 50 < len(WAYS) < 2000, len(WAYS)
    assert len(WALKED) > 1000


def test_every_row_is_needed() -> None:
    used = {(facts.phase, event) for facts, event in WALKED}
    assert used == set(STEPS), set(STEPS) ^ used


@pytest.mark.parametrize("pair", sorted(STEPS, key=str), ids=str)
def test_without_a_row_some_order_of_events_is_impossible(
    pair: tuple[Phase, Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(STEPS, pair)
    with pytest.raises(ImpossibleError) as caught:
        walk()
    assert (caught.value.facts.phase, caught.value.event) == pair
    assert pair[0].name in str(caught.value)
    assert pair[1].name in str(caught.value)


def test_a_kernel_has_one_work_at_a_time() -> None:
    for facts, event in WALKED:
        after, orders = step(facts, event)
        assert orders.count(Order.BEGIN) <= 1, story(facts, event)
        assert after.work in WORKS[after.phase], story(facts, event)
        waits = event is Event.PARK and facts.phase is Phase.RELEASING
        if Order.BEGIN in orders and facts.work not in SHORT and event in ANYTIME and not waits:
            assert Order.CANCEL in orders, story(facts, event)
            assert orders.index(Order.CANCEL) < orders.index(Order.BEGIN), story(facts, event)
        if after.work is not facts.work and after.work is not None:
            assert Order.BEGIN in orders, story(facts, event)
        if Order.CANCEL in orders:
            assert facts.work not in SHORT, story(facts, event)


def test_a_kill_kills_from_everywhere_at_once() -> None:
    for facts, event in WALKED:
        if event is not Event.KILL:
            continue
        after, orders = step(facts, event)
        assert after.phase in (Phase.ENDING, Phase.OFF, Phase.CLOSED), story(facts, event)
        if facts.process:
            assert orders.count(Order.KILL_PROCESS) == 1, story(facts, event)
        elif facts.phase not in (Phase.ENDING, Phase.CLOSED):
            assert Order.EXIT in orders, story(facts, event)


@pytest.mark.parametrize("event", [Event.END, Event.RESTART, Event.CLOSE, Event.TERMINATE])
def test_an_end_ends_from_everywhere(event: Event) -> None:
    for facts in WAYS:
        after, orders = step(facts, event)
        if facts.phase is Phase.CLOSED:
            continue
        if facts.phase is Phase.RUNNING and event is not Event.CLOSE:
            # Its process has been asked, and answers for itself.
            assert after.phase is Phase.RUNNING
            assert Order.KILL_PROCESS not in orders
            continue
        assert after.phase in (Phase.ENDING, Phase.OFF), story(facts, event)
        if facts.process and facts.then is not Then.CLOSE:
            assert Order.KILL_PROCESS in orders, story(facts, event)


@pytest.mark.parametrize("event", [Event.CLOSE, Event.PARK])
def test_whatever_is_under_way_it_can_be_closed(event: Event) -> None:
    for facts in WAYS:
        after, _ = step(facts, event)
        for _ in range(2):
            if after.phase is not Phase.CLOSED:
                assert after.work in (Work.STOP, Work.PARK), story(facts, event)
                after, orders = step(after, Event.DONE)
                assert Order.FORGET in orders
                assert Order.CLOSE_RELAY in orders
                assert Order.EXIT in orders
        assert after.phase is Phase.CLOSED, story(facts, event)


def test_a_server_that_stops_saves_what_lives_on_without_its_share_before_it_kills() -> None:
    """Also where that waits for its share again; what holds a share, or has ended, is not asked."""
    for facts in WAYS:
        if facts.phase in (Phase.ENDING, Phase.CLOSED):
            continue
        after, orders = step(facts, Event.PARK)
        away = facts.process and facts.again and facts.phase in PARKED
        leaves = facts.phase is Phase.RELEASING  # that goes to its end first
        assert after.phase is Phase.ENDING, story(facts, Event.PARK)
        saves = away or leaves
        assert after.work is (Work.PARK if saves else Work.STOP), story(facts, Event.PARK)
        assert (Order.KILL_PROCESS in orders) is (facts.process and not saves)
        # What others end may be saved for longer than a server has that stops.
        if leaves:
            assert (Order.CANCEL in orders) is (facts.work is Work.RESCUE)


def test_jupyter_can_start_it_again_from_everywhere() -> None:
    for facts in WAYS:
        after, orders = step(facts, Event.LAUNCH)
        if facts.phase is Phase.CLOSED or facts.then is Then.CLOSE:
            assert orders == (Order.REFUSE,), story(facts, Event.LAUNCH)
            continue
        assert (after.phase, after.work) == (Phase.WAITING, Work.START)
        assert Order.BEGIN in orders
        if facts.process:
            assert Order.KILL_PROCESS in orders
        # What was meant for the last process says nothing about this one.
        assert after == replace(Facts(), phase=Phase.WAITING, work=Work.START, cells=facts.cells)


def test_only_an_interrupt_interrupts() -> None:
    for facts, event in WALKED:
        after, orders = step(facts, event)
        if not {Order.INTERRUPT_PROCESS, Order.INTERRUPT_EARLIER} & set(orders):
            continue
        assert after.phase is Phase.RUNNING, story(facts, event)
        assert (event is Event.INTERRUPT) is (Order.INTERRUPT_PROCESS in orders)
        if event is not Event.INTERRUPT:
            # A cell may have been running when the interrupt came, and the kernel was paused.
            assert event is Event.BUSY
            assert Event.INTERRUPT in WAYS[facts]
    running = replace(Facts(), phase=Phase.RUNNING, process=True)
    assert step(running, Event.INTERRUPT)[1] == (Order.INTERRUPT_PROCESS,)


def test_an_interrupt_of_a_question_loses_neither() -> None:
    asked = replace(Facts(), phase=Phase.RUNNING, process=True, work=Work.LOOK, cells=True)
    after, orders = step(asked, Event.INTERRUPT)
    assert orders == (Order.CANCEL, Order.ANSWER_CELLS)
    assert step(after, Event.BUSY)[1] == (Order.INTERRUPT_EARLIER,)
    assert step(after, Event.FAILED)[1] == ()


def test_an_interrupt_clears_what_waits() -> None:
    for facts in WAYS:
        after, orders = step(facts, Event.INTERRUPT)
        if facts.phase is Phase.RUNNING and facts.work is None:
            continue
        if facts.phase is not Phase.CLOSED:
            assert Order.ANSWER_CELLS in orders, story(facts, Event.INTERRUPT)
        assert not after.cells


def test_no_cell_waits_where_nothing_is_on_its_way() -> None:
    for facts, event in WALKED:
        after, orders = step(facts, event)
        if after.cells:
            on_its_way = after.work is not None or (
                after.phase is Phase.OFF and after.expected  # until the grace is over
            )
            assert on_its_way, story(facts, event)
        if event is Event.CELL and not after.cells and facts.phase is not Phase.RUNNING:
            assert Order.ANSWER_CELLS in orders, story(facts, event)
        if facts.cells and not after.cells:
            handed_on = after.phase is Phase.RUNNING
            assert handed_on or Order.ANSWER_CELLS in orders, story(facts, event)


def test_a_cell_wakes_and_a_look_is_never_worth_a_wait() -> None:
    for facts in WAYS:
        after, orders = step(facts, Event.CELL)
        if facts.phase is Phase.RELEASED:
            assert (after.phase, after.cells, after.again) == (Phase.WAITING, True, True)
            assert after.work is (Work.WAKE if facts.process else Work.START)
        if facts.work is Work.LOOK:
            assert orders == (Order.CANCEL,)
        if facts.phase is Phase.RELEASING and facts.unused:
            assert orders == (Order.CANCEL,), "somebody is back"
            assert not after.unused


def test_what_comes_while_something_is_under_way_is_remembered() -> None:
    for facts, event in WALKED:
        if not facts.cells or event not in (Event.LEFT, Event.SAVED, Event.DONE):
            continue
        after, _ = step(facts, event)
        if facts.phase in (Phase.RELEASING, Phase.SETTLING):
            assert after.phase is Phase.WAITING, story(facts, event)


def test_every_wish_has_an_answer() -> None:
    for facts, event in WALKED:
        if event not in WISHES:
            continue
        _, orders = step(facts, event)
        answers = {Order.ACCEPT, Order.ATTEND, Order.DEFER, Order.REFUSE, Order.BEGIN}
        given = [order for order in orders if order in answers]
        if Order.BEGIN in given and len(given) == 2:
            given.remove(Order.BEGIN)  # who wished waits for it, or does not care how it ends
        assert len(given) == 1, (story(facts, event), given)


def test_a_second_wish_waits_for_the_same_end() -> None:
    for facts in WAYS:
        if facts.phase is Phase.SETTLING:
            assert Order.ATTEND in step(facts, Event.RELEASE)[1]
            assert step(facts, Event.RESIZE)[1] == (Order.DEFER,)
            assert Order.BEGIN not in step(facts, Event.CELL)[1], "after it, not beside it"


def test_the_end_of_a_process_is_seen_at_once() -> None:
    for facts, event in WALKED:
        if event is Event.DIED and facts.process:
            after, orders = step(facts, event)
            assert Order.EXIT in orders, story(facts, event)
            assert not after.process


def test_what_is_kept_for_a_restart_has_an_end() -> None:
    for facts, event in WALKED:
        after, orders = step(facts, event)
        became = after.phase is Phase.OFF and facts.phase is not Phase.OFF
        if became and after.expected:
            assert Order.GRACE in orders, story(facts, event)
        if event is Event.EXPIRED and facts.phase is Phase.OFF and facts.expected:
            assert (after.work, after.expected) == (Work.FREE, False)
            assert Order.FORGET in orders


def test_a_failed_release_leaves_the_kernel_as_it_was() -> None:
    for facts in WAYS:
        if facts.phase is Phase.RELEASING and facts.process:
            after, _ = step(facts, Event.FAILED)
            away = facts.again  # it was without its share before, and others end it
            assert after.phase is (Phase.RELEASED if away else Phase.RUNNING)
            assert after.process
            assert not after.cells or not away
        if facts.phase is Phase.RELEASING and not facts.process:
            after, _ = step(facts, Event.FAILED)
            assert after.phase in (Phase.RELEASED, Phase.WAITING), "its process has ended"


def test_what_was_kept_is_kept_when_a_wake_fails() -> None:
    for facts in WAYS:
        if facts.again and facts.work in (Work.START, Work.WAKE):
            after, _ = step(facts, Event.FAILED)
            assert after.phase is Phase.RELEASED
            assert after.process is (facts.work is Work.WAKE)


def test_what_others_end_is_saved_from_everywhere() -> None:
    """At once, or when the work under way is over, which may save it itself; never twice."""
    for facts in WAYS:
        after, orders = step(facts, Event.EVICTED)
        where = story(facts, Event.EVICTED)
        over = facts.phase in (Phase.OFF, Phase.ENDING, Phase.CLOSED, Phase.STARTING)
        asked = facts.phase is Phase.RUNNING and facts.asked is not None  # it ends in its own way
        if not facts.process or over or asked or facts.work is Work.RESCUE:
            assert (after, orders) == (facts, ()), where
        elif facts.phase in (Phase.RELEASING, Phase.RESIZING, Phase.SETTLING, Phase.RESUMING):
            assert (after, orders) == (facts, (Order.DEFER,)), where
        else:
            assert after.work is Work.RESCUE, where
            assert Order.BEGIN in orders, where
            assert after.phase in (Phase.RUNNING, Phase.RELEASING), where


def test_no_other_wish_gets_in_the_way_of_saving_what_others_end() -> None:
    for facts in WAYS:
        if facts.work is not Work.RESCUE:
            continue
        for event in WISHES:
            after, orders = step(facts, event)
            assert after.work is Work.RESCUE, story(facts, event)
            assert not {Order.BEGIN, Order.CANCEL} & set(orders), story(facts, event)


def test_what_others_end_counts_as_saved_only_when_it_was() -> None:
    for facts in WAYS:
        if facts.work is not Work.RESCUE:
            continue
        assert facts.process or facts.phase is Phase.RELEASING, "its process ended as it was saved"
        if not facts.process:
            continue
        after, _ = step(facts, Event.FAILED)
        assert after.process, story(facts, Event.FAILED)
        assert after.again is facts.again, story(facts, Event.FAILED)
        after, orders = step(facts, Event.DIED)
        assert Order.EXIT in orders
        assert after.phase is Phase.ENDING


def test_who_interrupts_the_wait_for_a_share_is_not_given_one_by_others() -> None:
    """One that waited for its share when its pod was taken away asks again, unless interrupted."""
    met = 0
    for facts in WAYS:
        if facts.work is not Work.RESCUE or facts.phase is not Phase.RELEASING or facts.process:
            continue
        met += facts.then is Then.WAKE
        asks = facts.cells or facts.then is Then.WAKE
        after, _ = step(facts, Event.SAVED)
        assert after.phase is (Phase.WAITING if asks else Phase.RELEASED), story(facts, Event.SAVED)
        after, _ = step(step(facts, Event.INTERRUPT)[0], Event.SAVED)
        assert after.phase is Phase.RELEASED, story(facts, Event.INTERRUPT)
    assert met


def test_no_cell_is_handed_to_a_kernel_that_others_end() -> None:
    """It waits for the next one; it is answered where there is none, or the user wants an end."""
    for facts in WAYS:
        if facts.work is not Work.RESCUE or not facts.process:
            continue
        after, orders = step(facts, Event.UNSAVED)
        assert (after, orders) == (facts, ()), story(facts, Event.UNSAVED)
        for event in (Event.DIED, Event.END, Event.RESTART, Event.TERMINATE):
            after, orders = step(facts, event)
            if facts.cells and event is not Event.TERMINATE:
                assert Order.ANSWER_CELLS in orders, story(facts, event)
            if after.phase is Phase.RUNNING:
                assert orders.index(Order.ANSWER_CELLS) < orders.index(Order.CANCEL)
                assert not after.cells
