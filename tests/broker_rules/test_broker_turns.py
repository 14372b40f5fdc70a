"""Who gets the next share of the real broker's ledger. Time is simulated, the rest is not."""

from __future__ import annotations

import asyncio
import heapq
import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from brokers import account, open_store
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, START, Clock

from jupyter_gpu_share.broker.claim import Claim
from jupyter_gpu_share.broker.order import PATIENCE, gpus_by_user, line, serve
from jupyter_gpu_share.broker.standing import HALF_LIFE, Standing
from jupyter_gpu_share.engines.local import _ledger
from jupyter_gpu_share.size import Size


async def test_who_has_least_is_served_first(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "holds", "1/2")
        assert await people.ask(2, "a", "1/2")
        assert not await people.ask(1, "b", "1/2")
        assert not await people.ask(3, "c", "1/2")
        rows = await people.rows()
        assert rows["3/c"]["queue"] == {"position": 1, "of": 2}, "the place is the one in the order"
        await people.end(2, "a")
        assert await people.holding() == {"1/holds", "3/c"}


@pytest.mark.parametrize("back", [0, 60])
async def test_claims_of_one_user_keep_their_order(
    tmp_path: Path, back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are of one second, or the clock is set back meanwhile."""
    clock = Clock()
    monkeypatch.setattr(_ledger, "_now", lambda: clock().isoformat(timespec="seconds"))
    names = ["c", "a", "b"]
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "first", "1")
        for name in names:
            assert not await people.ask(2, name, "1")
            clock.wait(-back)
        await people.end(1, "first")
        for name in names:
            assert await people.holding() == {f"2/{name}"}
            await people.end(2, name)


async def test_what_was_held_of_late_counts_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1")
        clock.wait(HALF_LIFE / MINUTE)
        await people.end(1, "a")
        mean = people.store._books.mean("uid 70001", clock())
        assert mean == pytest.approx(0.5)
    clock.wait(HALF_LIFE / MINUTE)
    async with open_store(tmp_path, clock) as people:
        assert people.store._books.mean("uid 70001", clock()) == pytest.approx(0.25)
        assert await people.ask(9, "first", "1")
        assert not await people.ask(1, "b", "1")
        assert not await people.ask(2, "c", "1")
        await people.end(9, "first")
        assert await people.holding() == {"2/c"}, "she came first, and had more"


async def test_what_ended_while_the_broker_was_away_is_held_by_nobody(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1")
        clock.wait(HALF_LIFE / MINUTE)
    for ledger in tmp_path.glob("shares-*"):
        ledger.unlink()  # as by a boot of the machine
    async with open_store(tmp_path, clock) as people:
        clock.wait(HALF_LIFE / MINUTE)
        assert people.store._books.mean("uid 70001", clock()) == pytest.approx(0.25)


async def test_a_large_one_is_passed_for_its_patience_over_a_restart(tmp_path: Path) -> None:
    clock, minutes = Clock(), PATIENCE / MINUTE
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1/2")
        clock.wait(minutes)
        assert not await people.ask(2, "large", "1"), "it waits, and nobody has passed it yet"
        clock.wait(minutes)
        assert await people.ask(3, "small", "1/4")
        clock.wait(minutes - 1)
        assert await people.ask(4, "small", "1/8")
    clock.wait(1)
    async with open_store(tmp_path, clock) as people:
        assert not await people.ask(5, "late", "1/8"), "now room is held for it"
        await people.end(1, "a")
        await people.end(3, "small")
        assert await people.holding() == {"4/small"}
        await people.end(4, "small")
        assert await people.holding() == {"2/large"}


async def test_who_holds_gets_more_only_after_those_who_wait(tmp_path: Path) -> None:
    """Nobody grows into what is kept for one who waits, who could be passed by it for ever."""
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1/2")
        assert not await people.ask(2, "large", "1")
        more = Size.parse("3/4")
        assert await people.store.fits(account(1), "a", [more]) != [None]
        assert await people.store.change(account(1), "a", more, None, dry=False) is None
        assert await people.ask(1, "a", "3/4") is False, "asked for anew it waits, too"


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize(("size", "passes"), [("1", True), ("3/4", False), ("1/2", False)])
async def test_who_gets_more_beside_those_who_wait_has_passed_them(
    tmp_path: Path, anew: bool, size: str, passes: bool
) -> None:
    """On a GPU that is not kept for them. Else growth could go on past their patience."""
    clock = Clock()
    async with open_store(tmp_path, clock, "2xA100-80GB") as people:
        assert await people.ask(1, "a", "3/4")
        assert await people.ask(2, "b", "1/2")
        assert not await people.ask(3, "large", "1"), "the other's GPU is kept for it"
        if anew:
            assert await people.ask(1, "a", size)
        else:
            assert await people.store.change(account(1), "a", Size.parse(size), None, dry=False)
        clock.wait(PATIENCE / MINUTE)
        assert await people.ask(4, "small", "1/2") is not passes


@pytest.mark.parametrize("seed", range(2))
async def test_ten_users_with_five_kernels_against_one_with_fifty(
    tmp_path: Path, seed: int
) -> None:
    """Nobody's first kernel waits for more than one of hers."""
    chance, clock = random.Random(seed), Clock()
    ends: list[tuple[float, int, str]] = []
    started: list[str] = []
    async with open_store(tmp_path, clock, "2xA100-80GB") as people:

        async def note() -> None:
            for name in sorted(await people.holding() - set(started)):
                started.append(name)
                user, _, kernel = name.partition("/")
                end = (clock() - START) / MINUTE + chance.uniform(20, 60)
                heapq.heappush(ends, (end, int(user), kernel))

        for number in range(50):
            await people.ask(0, f"k{number}", "1/2")
        await note()
        clock.wait(1)
        for user in range(1, 11):
            for number in range(5):
                await people.ask(user, f"k{number}", "1/2")
        while ends:
            end, user, kernel = heapq.heappop(ends)
            clock.wait(end - (clock() - START) / MINUTE)
            await people.end(user, kernel)
            await note()
    assert len(started) == len(set(started)) == 100
    last = max(started.index(f"{user}/k0") for user in range(1, 11))
    hers = [name for name in started[4:last] if name.startswith("0/")]
    assert len(hers) <= 1
    until = max(place for place, name in enumerate(started) if not name.startswith("0/"))
    hers = [name for name in started[4:until] if name.startswith("0/")]
    assert len(hers) <= 8, "she gets about one in eleven while the others wait"


_STEP = st.tuples(
    st.integers(1, 4),
    st.sampled_from("abc"),
    st.sampled_from(["1/4", "1/2", "3/4", "1"]),
    st.sampled_from([0.0, 0.1, 3.0, 700.0]),
)


class Model:
    """The same by the pure functions alone, on one GPU."""

    def __init__(self) -> None:
        self.waiting: dict[str, Claim] = {}
        self.held: dict[str, Claim] = {}
        self.standing = Standing()

    def serve(self, clock: Clock) -> None:
        now = clock()
        turns = line(
            self.waiting.values(),
            gpus_by_user(self.held.values()),
            lambda user: self.standing.mean(user, now),
            now,
        )
        left = 1 - sum((each.gpus for each in self.held.values()), Fraction(0))
        room = _Room(left)
        found = serve(turns, self.held.values(), room)
        for claim in found.granted:
            self.held[claim.kernel_id] = self.waiting.pop(claim.kernel_id)
        for name in found.passed:
            since = self.waiting[name].passed_since or now
            self.waiting[name] = replace(self.waiting[name], passed_since=since)
        for user in {each.user for each in self.held.values()} | self.standing.holders:
            own = [each.gpus for each in self.held.values() if each.user == user]
            self.standing.hold(user, float(sum(own)), now)


class _Room:
    def __init__(self, left: Fraction) -> None:
        self.left = left
        self.held = False

    def take(self, claim: Claim) -> bool:
        if self.held or claim.gpus > self.left:
            return False
        self.left -= claim.gpus
        return True

    def hold(self, claim: Claim) -> None:
        self.held = True


@given(st.lists(_STEP, max_size=25))
@settings(max_examples=25, deadline=None)
def test_the_ledger_serves_as_the_pure_functions_say(
    steps: list[tuple[int, str, str, float]],
) -> None:
    async def run() -> None:
        clock, model = Clock(), Model()
        with TemporaryDirectory() as folder:
            async with open_store(Path(folder), clock) as people:
                for user, name, size, minutes in steps:
                    clock.wait(minutes)
                    key = f"{user}/{name}"
                    if key in model.held or key in model.waiting:
                        await people.end(user, name)
                        model.held.pop(key, None)
                        model.waiting.pop(key, None)
                    else:
                        await people.ask(user, name, size)
                        parsed = Size.parse(size)
                        model.waiting[key] = Claim(
                            f"uid {70000 + user}", key, parsed, Fraction(size), 0, clock()
                        )
                    model.serve(clock)
                    assert await people.holding() == set(model.held)

    asyncio.run(run())
