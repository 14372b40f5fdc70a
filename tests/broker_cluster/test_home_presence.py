"""Which processes of servers count as alive, and what becomes of kernels without one."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpu_share.broker.cluster.presence import (
    AGAIN,
    QUIET,
    RESTART,
    RETURN,
    SILENCE,
    Fate,
    Presence,
    Process,
    Signs,
    ask_at,
    fate_of,
    free_at,
    gone_at,
)

ANN = Process("ann", "", "a" * 32)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """Presence under a clock that only the test moves."""

    def __init__(self) -> None:
        self.clock, self.gone = Clock(), list[Process]()
        #: Since when the Hub answers again; None: it is away.
        self.back: float | None = float("-inf")
        self.asked: list[Process] = []
        self.presence = Presence(self.gone.append, self.clock, self._heard, self.asked.append)

    def _heard(self) -> float:
        return 0.0 if self.back is None else self.clock.now - self.back

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.presence.look()


def test_the_decision_alone() -> None:
    assert gone_at(Signs(heard=10.0)) == 10.0 + RETURN
    assert gone_at(Signs(heard=10.0, proven=True)) == 10.0 + SILENCE
    assert gone_at(Signs(heard=10.0, proven=True), 7.0) == 17.0
    assert gone_at(Signs(streams=1, heard=10.0)) is None
    assert gone_at(Signs(ended=20.0, heard=10.0)) == 20.0 + RETURN
    assert gone_at(Signs(ended=20.0, heard=21.0, proven=True)) == 21.0 + SILENCE
    assert gone_at(Signs(heard=10.0, until=500.0, proven=True)) == 500.0
    assert gone_at(Signs(streams=1, until=500.0, left=True)) == float("-inf")


def test_who_may_take_over_and_when_the_hub_is_asked() -> None:
    assert free_at(Signs(heard=10.0, proven=True)) == 10.0 + QUIET
    assert free_at(Signs(ended=20.0, heard=10.0, proven=True)) == 20.0 + QUIET
    assert free_at(Signs(ended=20.0, streams=1)) is None
    assert free_at(Signs(heard=10.0, until=500.0)) == 10.0 + RETURN  # after a restart
    assert free_at(Signs(streams=1, left=True)) == float("-inf")
    assert ask_at(Signs(ended=20.0, proven=True)) == 20.0 + QUIET
    assert ask_at(Signs(ended=20.0, proven=True, asked=25.0)) == 25.0 + AGAIN
    assert ask_at(Signs(ended=20.0)) is None
    assert ask_at(Signs(ended=20.0, streams=1, proven=True)) is None
    assert ask_at(Signs(ended=20.0, left=True, proven=True)) is None
    # Shares of a stopped server are to be back in half a minute, the way off the GPU among it.
    assert QUIET + AGAIN <= 10.0


async def test_a_stream_keeps_it_and_its_end_leaves_some_time() -> None:
    world = World()
    with world.presence.stream(ANN):
        world.pass_time(10_000)
        assert world.presence.alive(ANN)
    world.pass_time(SILENCE - 1)
    assert world.presence.alive(ANN) and not world.gone
    with world.presence.stream(ANN):
        world.pass_time(10_000)
    world.pass_time(SILENCE)
    assert world.gone == [ANN] and not world.presence.alive(ANN)


async def test_one_that_crashed_keeps_what_it_has_and_the_next_may_take_it() -> None:
    """The Hub accepts its token still: somebody may start it again, as Kubernetes does."""
    world = World()
    with world.presence.stream(ANN):
        world.pass_time(100)
    assert world.presence.holds(ANN), "its stream may have ended for a moment"
    world.pass_time(QUIET)
    assert not world.presence.holds(ANN) and world.presence.alive(ANN)
    world.presence.hear(ANN)
    assert world.presence.holds(ANN), "it is there again"
    world.pass_time(SILENCE - 1)
    assert world.presence.alive(ANN) and not world.presence.holds(ANN)
    world.pass_time(1)
    assert world.gone == [ANN]


async def test_the_hub_is_asked_about_the_silent_again_and_again_and_about_no_others() -> None:
    world = World()
    silent, waited_for = ANN._replace(instance="b" * 32), ANN._replace(instance="c" * 32)
    world.presence.hear(silent)
    world.presence.expect(waited_for)  # of it no token is known yet
    with world.presence.stream(ANN):
        for _ in range(20):
            world.pass_time(1)
    assert world.asked == [silent] * 4  # at 5, 10, 15 and 20
    world.presence.refused(silent)
    world.pass_time(0)
    assert world.gone == [silent]
    world.pass_time(AGAIN)
    assert world.asked == [silent] * 4 + [ANN]


async def test_two_streams_at_once_are_one_process() -> None:
    """A client comes back before the broker has seen the end of its last stream."""
    world = World()
    with ExitStack() as second:
        with world.presence.stream(ANN):
            second.enter_context(world.presence.stream(ANN))
        world.pass_time(1000)
        assert world.presence.alive(ANN)
    world.pass_time(SILENCE)
    assert world.gone == [ANN]


async def test_who_says_that_it_ends_is_gone_at_once_though_its_stream_is_open() -> None:
    world = World()
    with ExitStack() as first:
        first.enter_context(world.presence.stream(ANN))
        world.presence.leaves(ANN)
        assert not world.presence.alive(ANN)
        world.presence.hear(ANN)
        world.pass_time(0)
        assert world.gone == [ANN]
        with world.presence.stream(ANN):  # it comes back
            first.close()  # and only now its first stream is seen to end
            world.pass_time(1000)
            assert world.presence.alive(ANN)
    world.pass_time(SILENCE)
    assert world.gone == [ANN, ANN]


async def test_what_comes_after_the_word_of_the_end_makes_nobody_alive() -> None:
    """A request that was sent before, or by what the process does while it ends."""
    world = World()
    world.presence.hear(ANN)
    world.presence.leaves(ANN)
    world.pass_time(0)
    assert world.gone == [ANN] and world.presence.has_left(ANN)
    assert world.presence.hear(ANN)
    assert not world.presence.alive(ANN) and not world.presence.holds(ANN)
    for number in range(5000):  # it is not remembered for ever
        world.presence.leaves(ANN._replace(instance=f"{number:032x}"))
    assert not world.presence.has_left(ANN)
    assert len(world.presence._over) < 5000


async def test_a_refused_token_ends_its_process_and_no_other() -> None:
    """The next process of that server has another token, and may be there already."""
    world = World()
    others = [Process("ann", "lab", "b" * 32), Process("ann", "", "d" * 32)]
    for process in (ANN, *others):
        world.presence.hear(process)
    world.presence.refused(ANN)
    world.pass_time(0)
    assert world.gone == [ANN]
    assert all(world.presence.alive(process) for process in others)


async def test_who_comes_and_goes_all_the_time_leaves_nothing_behind() -> None:
    world = World()
    for _ in range(100):
        with world.presence.stream(ANN):
            pass
        world.presence.leaves(ANN)
        world.pass_time(0)
    assert world.gone == [ANN] * 100
    assert len(world.presence._due) <= 2


async def test_while_nobody_can_be_heard_nobody_is_gone() -> None:
    world = World()
    world.presence.hear(ANN)
    world.back = None
    for _ in range(20):
        world.pass_time(SILENCE)
    assert not world.gone
    world.back = world.clock.now
    world.pass_time(RESTART - 1)
    assert not world.gone, "it has its time to come back once it can be heard"
    world.pass_time(1)
    assert world.gone == [ANN]


@settings(deadline=None)
@given(
    away=st.floats(0.0, 900.0),
    late=st.floats(0.0, RESTART - 1),
    expected=st.booleans(),
    back=st.booleans(),
)
def test_who_comes_back_soon_after_the_hub_finds_what_it_had(
    away: float, late: float, expected: bool, back: bool
) -> None:
    """Whenever the Hub is back: a look may come just then, before anybody could be heard."""

    async def play() -> None:
        world = World()
        if expected:  # the broker was started again while the Hub was away
            world.presence.expect(ANN)
        else:
            world.presence.hear(ANN)
        world.back = None
        pass_seconds(world, away)
        world.back = world.clock.now
        if back:
            pass_seconds(world, late)
            assert not world.gone
            world.presence.hear(ANN)
            pass_seconds(world, SILENCE - 1)
            assert not world.gone
        pass_seconds(world, SILENCE + RETURN + RESTART)
        assert world.gone == [ANN], "and it is not there for ever"
        world.presence.close()

    asyncio.run(play())


def pass_seconds(world: World, seconds: float) -> None:
    """Time passes, and everything is looked at when it is due."""
    end = world.clock.now + seconds
    while (due := world.presence._due) and due[0][0] <= end:
        world.clock.now = max(world.clock.now, due[0][0])
        world.presence.look()
    world.clock.now = end


async def test_one_server_cannot_fill_the_table() -> None:
    world = World()
    heard = [world.presence.hear(ANN._replace(instance=f"{n:032x}")) for n in range(100)]
    assert sum(heard) == 64
    assert world.presence.hear(ANN._replace(user="bob"))
    world.pass_time(SILENCE)
    assert len(world.gone) == 65
    assert world.presence.hear(ANN)
    assert not world.presence._due or len(world.presence._due) == 1


async def test_the_timer_tells_by_itself() -> None:
    gone = asyncio.Event()
    presence = Presence(lambda process: gone.set(), silence=0.05)
    presence.hear(ANN)
    await asyncio.wait_for(gone.wait(), 10)
    presence.close()


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["hear", "open", "close", "leave", "refuse", "expect", "wait"]),
        st.integers(0, 2),
        st.floats(0, 70),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(MOVES)
def test_it_agrees_with_a_naive_model(moves: list[tuple[str, int, float]]) -> None:
    asyncio.run(play(moves))


async def play(moves: list[tuple[str, int, float]]) -> None:
    """Each process is told to be gone exactly when the model says so, and once."""
    world = World()
    processes = [ANN._replace(instance=str(n) * 32) for n in range(3)]
    model: dict[Process, dict[str, float]] = {}
    open_streams: dict[Process, list[ExitStack]] = {process: [] for process in processes}
    told: list[Process] = []
    asked: list[Process] = []
    left: set[Process] = set()

    def silent(process: Process) -> float:
        state = model[process]
        if state["streams"]:
            return -1.0
        return world.clock.now - max(state["ended"], state["heard"])

    def over(process: Process) -> bool:
        state = model[process]
        if state["left"]:
            return True
        patience = SILENCE if state["proven"] else RETURN
        return silent(process) >= patience and world.clock.now >= state["until"]

    def held(process: Process) -> bool:
        return silent(process) < (QUIET if model[process]["proven"] else RETURN)

    def ask() -> None:
        for process, state in model.items():
            again = world.clock.now >= state["asked"] + AGAIN
            if state["proven"] and silent(process) >= QUIET and again and not over(process):
                state["asked"] = world.clock.now
                asked.append(process)

    def settle() -> None:
        for process in [each for each in model if over(each)]:
            del model[process]
            told.append(process)
            open_streams[process].clear()

    def known(process: Process) -> dict[str, float]:
        fresh = {"streams": 0, "ended": -1.0, "heard": world.clock.now, "until": 0.0, "left": 0}
        return model.setdefault(process, {**fresh, "proven": 0, "asked": -1000.0})

    keep: list[ExitStack] = []
    for move, number, seconds in moves:
        process = processes[number]
        if move == "wait":
            world.pass_time(seconds)
        elif move == "hear":
            world.presence.hear(process)
            if process not in left:
                known(process).update(heard=world.clock.now, proven=1)
        elif move == "open":
            stack = ExitStack()
            stack.enter_context(world.presence.stream(process))
            open_streams[process].append(stack)
            keep.append(stack)
            known(process)["streams"] += 1
            model[process].update(left=0, proven=1)
            left.discard(process)
        elif move == "close" and open_streams[process]:
            open_streams[process].pop().close()
            known(process)["streams"] -= 1
            model[process]["ended"] = world.clock.now
        elif move == "leave":
            world.presence.leaves(process)
            left.add(process)
            if process in model:
                model[process]["left"], model[process]["until"] = 1, 0.0
        elif move == "refuse":
            world.presence.refused(process)
            if process in model:
                model[process]["left"], model[process]["until"] = 1, 0.0
        elif move == "expect":
            world.presence.expect(process)
            known(process)["until"] = world.clock.now + RESTART
        world.presence.look()
        settle()
        ask()
        assert sorted(world.gone) == sorted(told)
        assert sorted(world.asked) == sorted(asked)
        assert {each for each in processes if world.presence.alive(each)} == set(model)
        assert {each for each in processes if world.presence.holds(each)} == {
            each for each in model if held(each)
        }
        assert {each for each in processes if world.presence.has_left(each)} == left
        assert len(world.presence._due) <= 3 * len(processes)
    for stack in keep:
        stack.close()
    world.presence.close()


@pytest.mark.parametrize("detachable", [True, False])
@pytest.mark.parametrize("vacated", [True, False])
def test_what_becomes_of_kernels(detachable: bool, vacated: bool) -> None:
    given = {"detachable": detachable, "vacated": vacated}
    assert fate_of(up=False, lent=False, ended=False, **given) is Fate.DELETE
    assert fate_of(up=True, lent=False, ended=True, **given) is Fate.DELETE
    assert fate_of(up=True, lent=True, ended=False, **given) is Fate.KEEP
    fate = fate_of(up=True, lent=False, ended=False, **given)
    if not detachable:
        assert fate is Fate.END
    else:
        assert fate is (Fate.GIVE_BACK if vacated else Fate.PARK)
