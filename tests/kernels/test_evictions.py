"""Others end what a kernel runs in: its variables are saved in the time that is left."""

from __future__ import annotations

import asyncio
import signal

import pytest
from stand_ins import Bench, bench
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import Kept, State
from jupyter_gpu_share.engines.base import Removal
from jupyter_gpu_share.kernels._rescue import _Time
from jupyter_gpu_share.kernels.facts import Event, Phase, Work
from jupyter_gpu_share.relay import Activity


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._BETWEEN_TRIES", 0.01)


async def evicted(made: Bench, *, grace: float = 60.0) -> None:
    """Have others end it, and wait until that is noticed."""
    made.engine.grace = grace
    made.engine.evicts.set()
    await eventually(lambda: made.controller.facts.work is Work.RESCUE, "it is noticed")


async def test_it_is_released_with_its_variables_and_the_reason_says_why() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("save")
        await evicted(made)
        await eventually(lambda: made.shown.state is State.RELEASING, "it is being saved")
        assert made.shown.reason == "It is evicted. Its variables are being saved."
        gate.set()
        await made.until(Phase.RELEASED)
        assert made.shown.reason == (
            "It is evicted. The variables are saved and come back with the next cell, in a new pod."
        )
        assert (made.shown.kept.how, made.shown.share) == ("snapshot", None)
        assert made.engine.put_aways == 1
        assert made.engine.let_go_of == 0
        assert made.controller.exit_code is None
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert "load" in made.gates.reached
        assert made.shown.reason == ""


async def test_what_could_not_be_saved_is_named_and_the_rest_is_kept() -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.does_not_return = ("generator `g`",)
        made.engine.evicts.set()
        await made.until(Phase.RELEASED)
        assert made.shown.reason.endswith("in a new pod. Lost: generator `g`.")
        assert made.shown.kept.lost == ("generator `g`",)


async def test_what_cannot_be_saved_ends_in_order_and_is_told() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.fails.add("save")
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.engine.let_go_of == 1
        assert made.shown.state is State.FAILED
        assert made.shown.reason == "It ended. save fails"
        assert not made.keeper.has_snapshot
        # Jupyter starts it again within seconds: then only its next cell can say it.
        assert made.keeper.owed == ["It is evicted. save fails. Run its cells again."]


@pytest.mark.parametrize("what", ["look", "save"])
async def test_what_an_interrupt_has_met_is_tried_again(what: str) -> None:
    """The cell that was interrupted has just ended, and the kernel drops what comes after it."""
    async with bench() as made:
        await made.launch()
        made.gates.fails_first.add(what)
        made.engine.evicts.set()
        await made.until(Phase.RELEASED)
        assert made.keeper.has_snapshot
        assert made.engine.let_go_of == 0


async def test_what_fails_again_and_again_is_given_up() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.fails.add("look")
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.keeper.looks == 3


async def test_what_the_cluster_says_later_of_the_end_is_told() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("save")
        await evicted(made)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        made.engine.why = "Its node is drained."
        gate.set()
        await made.until(Phase.RELEASED)
        assert made.shown.reason.startswith("Its node is drained. The variables are saved")


async def test_a_save_that_takes_too_long_is_given_up() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        made.engine.grace = 0.2
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert "It ended. The variables could not be saved: that took longer" in made.shown.reason
        assert not made.keeper.has_snapshot


async def test_a_kernel_that_dies_while_it_is_saved_is_dead() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        await evicted(made)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        assert made.engine.ended is not None
        made.engine.ended.set()
        await made.until(Phase.OFF)
        assert made.shown.state is State.FAILED
        assert not made.keeper.has_snapshot


async def test_a_running_cell_has_a_part_of_the_time_and_is_interrupted_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._INTERRUPT_AFTER", 0.0)
    async with bench() as made:
        await made.launch()
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        await evicted(made)
        await eventually(lambda: bool(made.engine.signals), "the cell is interrupted")
        assert made.engine.signals == [signal.SIGINT]
        assert made.relay.told == [
            "It is evicted. The running cell is interrupted, so that the variables can be saved."
        ]
        assert made.shown.state is State.ACTIVE
        assert "save" not in made.gates.reached
        made.relay.activity = Activity(cells_sent=1, cells_done=1)
        await made.until(Phase.RELEASED)
        assert made.keeper.has_snapshot


async def test_a_running_cell_that_ends_in_time_is_left_alone_and_the_next_one_waits() -> None:
    """As papermill sends them: each as soon as the one before it has ended."""
    async with bench() as made:
        await made.launch()
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        await evicted(made, grace=600.0)
        await eventually(lambda: made.relay.paused, "nothing more reaches the kernel")
        assert made.shown.state is State.ACTIVE
        made.relay.activity = Activity(cells_sent=2, cells_done=1)
        made.relay.cells = 1
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert {"save", "load"} <= made.gates.reached
        assert made.engine.put_aways == 1, "it runs in the next pod"
        assert made.relay.handed == 1
        assert made.engine.signals == []
        assert made.relay.told == []


@pytest.mark.parametrize("fails", ["look", "save"])
@pytest.mark.parametrize("away", [False, True])
async def test_where_nothing_is_saved_no_cell_reaches_a_kernel_that_ends(
    fails: str, away: bool
) -> None:
    async with bench() as made:
        await made.launch()
        if away:
            await made.controller.release(lose_variables=False)
        made.engine.ends_when_let_go_of = False
        gate = made.gates.close(fails)
        await evicted(made)
        await eventually(lambda: fails in made.gates.reached, "it is being saved")
        made.relay.cells = 1
        made.controller.tell(Event.CELL)
        made.gates.fails.add(fails)
        gate.set()
        await eventually(lambda: made.engine.let_go_of == 1, "it is let go of")
        made.relay.cells = 2  # it has some seconds to end in order
        made.controller.tell(Event.CELL)
        await eventually(lambda: made.shown.reason.endswith("fails"), "that is told")
        assert made.relay.paused
        assert made.engine.ended is not None
        made.engine.ended.set()
        await made.until(Phase.OFF)
        assert made.relay.handed == 0
        assert made.relay.discarded == ["DeadKernelError"]
        assert made.shown.reason == f"It ended. {fails} fails"


async def test_an_end_that_nobody_hears_of_is_not_waited_for_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its node may be gone, and the pod stay in the cluster for hours."""
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._UNHEARD", 0.1)
    async with bench() as made:
        await made.launch()
        made.engine.ends_when_let_go_of = False
        made.engine.grace = 0.1
        made.gates.fails.add("save")
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.shown.reason.startswith("It is evicted. ")
        assert made.shown.state is State.FAILED
        assert not made.engine.held


@pytest.mark.parametrize("away", [False, True])
async def test_a_restart_of_one_that_could_not_be_saved_leaves_no_cell_behind(away: bool) -> None:
    async with bench() as made:
        await made.launch()
        if away:
            await made.controller.release(lose_variables=False)
        made.engine.ends_when_let_go_of = False
        made.gates.fails.add("look")
        made.engine.evicts.set()
        await eventually(lambda: made.engine.let_go_of == 1, "it is let go of")
        made.relay.cells = 1
        made.controller.tell(Event.CELL)
        made.controller.tell(Event.RESTART)
        assert made.engine.ended is not None
        made.engine.ended.set()
        await made.until(Phase.OFF)
        assert made.relay.handed == 0
        assert made.relay.discarded
        await made.launch()
        assert made.relay.handed == 0


async def test_one_that_is_asked_to_end_meanwhile_answers_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._GIVE_UP_AFTER", 0.0)
    async with bench() as made:
        await made.launch()
        made.engine.ends_when_let_go_of = False
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        made.engine.evicts.set()
        await eventually(lambda: made.engine.let_go_of == 1, "it is let go of")
        assert made.relay.paused
        made.controller.tell(Event.RESTART)
        await eventually(lambda: not made.relay.paused, "it answers for itself")


async def test_an_error_of_our_own_ends_it_in_order_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench() as made:
        await made.launch()

        async def wrong(*_: object, **__: object) -> None:
            raise TypeError("a mistake")

        monkeypatch.setattr(made.keeper, "save", wrong)
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.engine.let_go_of == 1
        assert made.relay.handed == 0
        assert "a mistake" in made.shown.reason


@pytest.mark.parametrize("event", [Event.END, Event.RESTART, Event.TERMINATE])
async def test_what_waits_is_answered_where_the_kernel_is_asked_to_end(event: Event) -> None:
    async with bench() as made:
        await made.launch()
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        await evicted(made, grace=600.0)
        await eventually(lambda: made.relay.paused, "nothing more reaches the kernel")
        made.relay.cells = 1
        made.controller.tell(Event.CELL)
        made.controller.tell(event)
        await eventually(lambda: not made.relay.paused, "the kernel answers for itself")
        assert made.relay.handed == 0
        assert len(made.relay.discarded) == 1


async def test_time_that_is_told_later_counts() -> None:
    """The agent's word may come before the cluster's, which may leave more time."""
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        await evicted(made, grace=3600.0)
        time = _Time(made.controller._context, Removal("Its agent says so.", 0.0))
        assert await time.bound(asyncio.sleep(0, "saved")) == "saved"
        assert not time.after(1 / 3)
        assert time.removal.reason == "It is evicted."


async def test_time_that_is_made_shorter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._rescue._LOOK_AT_TIME", 0.05)
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        await evicted(made, grace=3600.0)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        made.engine.grace = 0.0
        await made.until(Phase.OFF)
        assert "that took longer" in made.shown.reason
        assert not made.keeper.has_snapshot


async def test_for_a_kernel_of_another_language_no_cell_is_interrupted() -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.saves_never = "Only Python."
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        made.engine.grace = 3600.0
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.engine.let_go_of == 1
        assert made.engine.signals == []
        assert made.relay.told == []
        assert made.shown.reason == "It ended. Only Python."


async def test_a_cell_that_does_not_end_keeps_the_variables_from_being_saved() -> None:
    async with bench() as made:
        await made.launch()
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        made.engine.grace = 0.3
        made.engine.evicts.set()
        await made.until(Phase.OFF)
        assert made.engine.signals == [signal.SIGINT]
        assert "a cell ran that did not end when it was interrupted" in made.shown.reason


async def test_a_user_may_still_interrupt_the_cell_that_is_waited_for() -> None:
    async with bench() as made:
        await made.launch()
        made.relay.activity = Activity(cells_sent=1, pending_cells=1)
        await evicted(made, grace=600.0)
        await made.controller.signal(signal.SIGINT)
        assert made.engine.signals == [signal.SIGINT]


async def test_a_cell_that_comes_meanwhile_runs_in_the_next_pod() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("save")
        await evicted(made)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        made.controller.tell(Event.CELL)
        gate.set()
        await made.until(Phase.RUNNING)
        assert "load" in made.gates.reached


async def test_what_lives_on_without_its_share_is_saved_too() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        assert made.shown.kept == Kept("in-place", ())
        made.keeper.moved = 2**30
        made.engine.evicts.set()
        await made.until(Phase.RELEASED)
        await eventually(lambda: made.keeper.has_snapshot, "it is saved")
        assert "take_back" in made.gates.reached, "its memory was moved away"
        assert made.shown.kept.how == "snapshot"
        assert made.shown.reason.endswith("in a new pod.")
        assert not made.engine.held


async def test_a_kernel_that_waits_for_its_share_is_saved_at_once() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.gates.close("take_back")
        made.controller.tell(Event.CELL)
        await eventually(lambda: "take_back" in made.gates.reached, "it asks for its share")
        made.engine.evicts.set()
        await eventually(lambda: "save" in made.gates.reached, "it is saved")
        await made.until(Phase.RUNNING)
        assert "load" in made.gates.reached, "the cell that waited runs in the next pod"


async def test_an_eviction_during_a_release_is_looked_at_afterwards() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("vacate")
        releasing = asyncio.ensure_future(made.controller.release(lose_variables=False))
        await eventually(lambda: "vacate" in made.gates.reached, "it leaves its share")
        made.engine.evicts.set()
        gate.set()
        await releasing
        await eventually(lambda: made.keeper.has_snapshot, "it is saved")
        await made.until(Phase.RELEASED)


async def test_an_eviction_of_an_earlier_pod_does_nothing_to_this_one() -> None:
    async with bench() as made:
        await made.launch()
        made.controller.tell(Event.EVICTED)  # nothing is known of it any more
        await made.until(Phase.RUNNING)
        assert made.keeper.looks == 0
        assert made.engine.let_go_of == 0


@pytest.mark.parametrize("event", [Event.KILL, Event.RESTART])
async def test_an_end_that_the_user_wants_goes_first(event: Event) -> None:
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        await evicted(made)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        made.controller.tell(event)
        await made.until(Phase.OFF)
        assert not made.keeper.has_snapshot


async def test_a_server_that_stops_meanwhile_waits_no_longer_than_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_gpu_share.kernels._release._SAVING", 0.1)
    async with bench() as made:
        await made.launch()
        made.gates.close("save")
        await evicted(made, grace=3600.0)
        await eventually(lambda: "save" in made.gates.reached, "it is being saved")
        await asyncio.wait_for(made.controller.close(park=True), PATIENCE)
