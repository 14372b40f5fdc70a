"""While a process lives on without its share, a word of it lies there, and at no other time."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import bench
from waiting import eventually

from jupyter_gpu_share.allocations import Kept
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.kernels.facts import Event, Phase
from jupyter_gpu_share.relay import Activity


async def test_the_word_comes_before_the_share_goes_and_leaves_with_the_wake() -> None:
    async with bench() as made:
        await made.launch()
        gate = made.gates.close("give_back")
        made.controller.tell(Event.RELEASE)
        await eventually(lambda: "give_back" in made.gates.reached, "it is being given back")
        assert made.keeper.rests_noted
        gate.set()
        await made.until(Phase.RELEASED)
        assert made.keeper.rests_noted
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert not made.keeper.rests_noted


async def test_a_share_that_could_not_be_given_back_leaves_no_word() -> None:
    async with bench() as made:
        await made.launch()
        made.gates.fails.add("give_back")
        with pytest.raises(GpuShareError):
            await made.controller.release(lose_variables=False)
        assert made.engine.held
        assert not made.keeper.rests_noted


async def test_a_way_back_that_fails_leaves_the_word() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.gates.fails.add("relay.resume")
        made.controller.tell(Event.CELL)
        await made.until(Phase.RELEASED)
        assert made.keeper.rests_noted


@pytest.mark.parametrize("how", ["in-place", "snapshot"])
@pytest.mark.parametrize("outlives", [True, False])
async def test_what_a_stop_does_not_keep_is_said_by_the_next_server(
    how: str, outlives: bool
) -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.kept = Kept(how, ())
        made.keeper.outlives = outlives
        await made.controller.release(lose_variables=False)
        await made.controller.close(park=True)
        assert made.keeper.has_snapshot is outlives
        assert ["none are kept" in line for line in made.keeper.lines] == [True] * (not outlives)


@pytest.mark.parametrize("outlives", [True, False])
@pytest.mark.parametrize("away", [True, False])
async def test_what_others_keep_is_not_kept_twice(away: bool, outlives: bool) -> None:
    """Two would come back of one: its process with its variables, and a file of them."""
    async with bench() as made:
        await made.launch()
        made.keeper.outlives = outlives
        if away:
            await made.controller.release(lose_variables=False)
        made.engine.others_keep = True
        made.gates.fails.add("save")  # that is not asked for
        await made.controller.close(park=True)
        assert not made.keeper.has_snapshot
        assert made.keeper.lines == []


async def test_what_is_saved_already_is_left_though_others_keep_processes() -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.kept = Kept("snapshot", ())
        await made.controller.release(lose_variables=False)
        made.engine.others_keep = True
        await made.controller.close(park=True)
        assert made.keeper.has_snapshot


async def test_what_cannot_be_saved_in_a_stop_is_said_with_its_reason() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.gates.fails.add("save")
        await made.controller.close(park=True)
        (line,) = made.keeper.lines
        assert "save fails" in line


@pytest.mark.parametrize("park", [True, False])
async def test_a_kernel_with_its_share_loses_nothing_that_was_kept(park: bool) -> None:
    async with bench() as made:
        await made.launch()
        made.keeper.outlives = False
        made.keeper.has_snapshot = True  # of before, as it could not be removed
        await made.controller.close(park=park)
        assert made.keeper.lines == []


async def test_one_whose_start_was_given_up_has_nothing_to_lose() -> None:
    async with bench() as made:
        await made.give_up_a_start()
        made.keeper.outlives = False
        await made.controller.close(park=True)
        assert made.keeper.lines == []


async def test_what_a_cell_has_said_is_not_said_again(tmp_path: Path) -> None:
    word = tmp_path / "x.lost"
    word.touch()
    async with bench() as made:
        made.keeper.told = [word]
        await made.launch()
        made.controller.activity(Activity(cells_sent=1, pending_cells=1))
        made.controller.activity(Activity(cells_sent=1, cells_done=1))
        await eventually(lambda: not word.exists(), "it was said")


@pytest.mark.parametrize("owes", [True, False])
async def test_what_no_cell_has_said_is_said_by_the_next_process_too(
    owes: bool, tmp_path: Path
) -> None:
    async with bench() as made:
        made.keeper.kept = Kept("snapshot", ())
        made.keeper.told = [tmp_path / "x.lost"] if owes else []
        await made.launch()
        assert made.keeper.said == 1
        await made.controller.release(lose_variables=False)
        made.controller.tell(Event.CELL)
        await made.until(Phase.RUNNING)
        assert "load" in made.gates.reached
        assert made.keeper.said == (2 if owes else 1)


@pytest.mark.parametrize("event", [None, Event.KILL])
async def test_of_what_ends_before_its_server_no_word_is_left(event: Event | None) -> None:
    """Else the next server's kernel would say that it has ended with the server."""
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        assert made.keeper.rests_noted
        assert made.engine.ended is not None
        if event is None:
            made.engine.ended.set()  # by itself, or for want of memory
        else:
            made.controller.tell(event)
        await made.until(Phase.OFF)
        assert not made.keeper.rests_noted


async def test_an_end_that_somebody_wants_is_no_loss() -> None:
    async with bench() as made:
        await made.launch()
        await made.controller.release(lose_variables=False)
        made.controller.tell(Event.END)
        await made.controller.close()
        assert made.keeper.lines == []
