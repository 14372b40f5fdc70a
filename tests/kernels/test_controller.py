"""A controller and its works, with all that they work on in the hands of the test."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import Bench, bench
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Kept, State
from jupyter_gpu_share.engines.base import Running, Starting
from jupyter_gpu_share.engines.idle_shares import AskedBack
from jupyter_gpu_share.errors import GpuShareError, NotPossible
from jupyter_gpu_share.kernels._details import Details
from jupyter_gpu_share.kernels._works import Task, Told, Works
from jupyter_gpu_share.kernels.facts import Event, Phase, Work
from jupyter_gpu_share.relay import Activity


async def test_a_start_that_is_given_up_before_it_began_keeps_no_share() -> None:
    async with bench() as made:
        await made.give_up_a_start()
        assert made.shown.share is None
        assert not made.engine.held


async def test_a_way_back_that_the_relay_cannot_go_holds_no_share() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.gates.fails.add("relay.resume")
        made.controller.tell(Event.CELL)
        await made.until(Phase.RELEASED)
        assert not made.engine.held


async def test_a_stop_saves_what_waits_for_its_share_with_its_process() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.gates.close("take_back")
        made.controller.tell(Event.CELL)
        await eventually(lambda: "take_back" in made.gates.reached, "it asks for its share")
        await asyncio.wait_for(made.controller.close(park=True), PATIENCE)
        assert made.keeper.has_snapshot
        assert made.engine.signals == []


async def test_a_kernel_whose_variables_are_saved_is_put_away_not_just_ended() -> None:
    async with bench() as made:
        made.keeper.kept = Kept("snapshot", ())
        await made.launch()
        await made.controller.release(lose_variables=False)
        assert made.shown.share is None
        assert made.engine.put_aways == 1
        await made.controller.close()
        assert made.engine.put_aways == 1


async def test_a_share_that_went_back_is_not_shown_when_a_cell_waits_already() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("vacate")
        again = made.gates.close("take_back")
        releasing = asyncio.ensure_future(made.controller.release(lose_variables=False))
        await eventually(lambda: "vacate" in made.gates.reached, "it is on its way")
        made.controller.tell(Event.CELL)
        gate.set()
        await releasing
        await eventually(lambda: "take_back" in made.gates.reached, "it asks for its share")
        assert not made.engine.held
        assert made.shown.share is None
        assert made.shown.state is State.WAKING
        again.set()
        await made.until(Phase.RUNNING)


@pytest.mark.parametrize("event", [Event.KILL, Event.RESTART])
async def test_what_is_shown_is_held_when_a_start_is_cut_short(event: Event) -> None:
    async with bench() as made:
        made.gates.close("start")
        await made.launch(patience=0)
        await eventually(lambda: "start" in made.gates.reached, "it starts")
        made.controller.tell(event)
        await made.until(Phase.OFF)
        assert (made.shown.share is not None) is made.engine.held


@pytest.mark.parametrize("event", [Event.KILL, Event.RESTART])
async def test_what_is_shown_is_held_when_a_release_is_cut_short(event: Event) -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.kept = Kept("snapshot", ())
        gate = made.gates.close("stop")
        releasing = asyncio.ensure_future(made.controller.release(lose_variables=False))
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await eventually(lambda: "stop" in made.gates.reached, "its process is being ended")
        made.controller.tell(event)
        gate.set()
        await made.until(Phase.OFF)
        assert (made.shown.share is not None) is made.engine.held


@pytest.mark.parametrize("kept", [Kept("in-place", ()), Kept("snapshot", ())])
async def test_a_share_that_may_not_be_free_yet_is_told(kept: Kept) -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.kept = kept
        made.engine.unsure = True
        await made.controller.release(lose_variables=False)
        await made.until(Phase.RELEASED)
        assert "had not confirmed by then" in made.shown.reason
        made.engine.unsure = False
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        await made.controller.release(lose_variables=False)
        assert "confirmed" not in made.shown.reason


async def test_a_share_that_is_being_given_back_is_not_turned_back() -> None:
    """Only one that is known to be held lets the process move back onto its GPU."""
    async with bench() as made:
        await made.launch()
        made.keeper.kept = Kept("in-place", ())
        gate = made.gates.close("give_back")
        releasing = asyncio.ensure_future(made.controller.release(lose_variables=False))
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await eventually(lambda: "give_back" in made.gates.reached, "it is being given back")
        made.controller.tell(Event.KILL)
        gate.set()
        await made.until(Phase.OFF)
        assert "resume" not in made.gates.reached


async def test_variables_that_nobody_keeps_do_not_come_back_from_an_older_file() -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.has_snapshot = True  # of a wake that did not bring back everything
        made.keeper.kept = Kept()
        await made.controller.release(lose_variables=True)
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert "load" not in made.gates.reached


async def test_what_ends_a_process_is_not_cut_short_by_what_comes_after() -> None:
    ended: list[tuple[Work, Event]] = []
    works = Works("k", lambda task, told: ended.append((task.work, told.event)))
    gate, begun = asyncio.Event(), asyncio.Event()
    cut = False

    async def stop() -> Told:
        nonlocal cut
        begun.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cut = True
            raise
        return Told(Event.DONE)

    async def start() -> Told:
        raise AssertionError

    first, second = Task(Work.STOP), Task(Work.START)
    first.run, second.run = stop, start
    works.begin(first)
    await begun.wait()
    works.begin(second)
    works.cancel()
    gate.set()
    await eventually(lambda: bool(ended), "both are over")
    assert not cut
    assert ended == [(Work.START, Event.FAILED)]


async def test_a_cell_of_a_widget_does_not_have_the_kernel_asked_again_and_again() -> None:
    async with bench() as made:
        for name, value in {
            "idle_after": 0.01,
            "rule": "fixed",
            "timeout": 0.05,
            "warn_before": 0.0,
        }.items():
            made.policy.set_trait(name, value)
        made.gates.close("look")
        await made.launch()
        made.controller.activity(made.relay.activity)
        for _ in range(3):
            await eventually(lambda: made.keeper.looks > 0, "the kernel is asked")
            made.controller.tell(Event.CELL)  # no cell, but a widget
            await eventually(lambda: made.controller.facts.work is None, "it is left")
            await asyncio.sleep(0)
        assert made.keeper.looks == 1


async def test_a_share_that_was_taken_goes_at_once_and_the_reason_says_so() -> None:
    why = "This share was taken for others, as it was not given back in time."
    async with bench() as made:
        made.policy.set_trait("idle_after", 0.01)
        await made.launch()
        made.controller.activity(made.relay.activity)
        await eventually(lambda: made.controller.unused, "it is idle")
        now = datetime.now(timezone.utc)
        made.controller.wanted_by_others(AskedBack(now, taken=True))
        assert made.shown.reason.startswith(why)
        await made.until(Phase.RELEASED)
        assert made.shown.reason.startswith(f"{why} The variables are kept")
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert why not in made.shown.reason
        made.controller.wanted_by_others(AskedBack(now + timedelta(hours=1)))
        assert why not in made.shown.reason


def test_what_is_told_of_a_share_that_was_taken_ends_with_the_next() -> None:
    share: Any = None
    request: Any = SimpleNamespace(path=None)
    starting, answering, anew = Details(taken=True), Details(taken=True), Details(taken=True)
    starting.starts(Starting(share), (None, None))
    answering.answered(Running(share, share))
    anew.begin(request, saved=False)
    assert not any(each.taken for each in (starting, answering, anew))


async def test_a_launch_that_is_refused_changes_nothing() -> None:
    made = Bench()
    await made.launch()
    await asyncio.wait_for(made.controller.close(), PATIENCE)
    with pytest.raises(GpuShareError):
        await made.launch()
    assert await asyncio.wait_for(made.controller.ended(), PATIENCE) == 0
    assert made.table.get("k") is None


async def test_a_stop_asks_nothing_of_kernels_that_it_has_killed() -> None:
    async with bench() as made:
        await made.launch()
        await asyncio.wait_for(made.controller.close(park=True), PATIENCE)
        assert made.keeper.looks == 0


async def test_a_cell_that_no_descriptor_is_left_for_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._context._AGAIN", 0.01)
    async with bench() as made:
        await made.launch()
        made.gates.fails.add("relay.resume")
        looking = asyncio.ensure_future(made.controller.kept_by_release())
        looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await eventually(lambda: bool(made.relay.told), "the user is told")
        made.controller.tell(Event.CELL)
        made.gates.fails.clear()
        await made.until(Phase.RUNNING)
        assert not made.relay.paused
        assert len(made.relay.told) == 1
        assert made.relay.discarded == []


async def test_a_kernel_ends_although_no_descriptor_is_left() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.fails.add("relay.resume")
        looking = asyncio.ensure_future(made.controller.kept_by_release())
        looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await eventually(lambda: bool(made.relay.told), "the user is told")
        await asyncio.wait_for(made.controller.close(park=True), PATIENCE)


@pytest.mark.parametrize("earlier", [True, False])
async def test_an_interrupt_is_meant_for_what_was_sent_before_it(earlier: bool) -> None:
    async with bench() as made:
        await made.launch()
        made.gates.close("look")
        looking = asyncio.ensure_future(made.controller.kept_by_release())
        await eventually(lambda: "look" in made.gates.reached, "the kernel is asked")
        made.relay.activity = Activity(cells_sent=2, pending_cells=1 if earlier else 0)
        await made.controller.signal(signal.SIGINT)
        with pytest.raises(NotPossible):
            await asyncio.wait_for(looking, PATIENCE)
        # The cell that the interrupt was meant for still runs, or is done and the next one runs.
        made.relay.activity = Activity(cells_sent=2 if earlier else 3, pending_cells=1)
        await made.controller._interrupt_earlier()
        assert made.engine.signals == ([signal.SIGINT] if earlier else [])
