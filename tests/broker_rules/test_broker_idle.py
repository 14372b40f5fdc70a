"""Whose idle share the real broker's store asks back, and until when. In simulated time."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from brokers import People, account, open_store
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import MINUTE, Clock

from jupyter_gpu_share.broker.idle import GRACE, LIFETIME, IdleShares
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.reclaims import Answer, Reclaims
from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.local._wire import idle_from_json, idle_to_json
from jupyter_gpu_share.idle import IdlePolicy

POLICY = IdlePolicy()
#: Minutes without use after which a share may go for others, and minutes of its warning.
AFTER, WARNED = POLICY.demand_after / 60, POLICY.warn_before / 60


class Servers:
    """Users' servers, one each, which tell of idle kernels."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.reclaims = Reclaims(people.store)

    def idle(self, minutes: float, *, keep: float | None = None, **more: bool) -> IdleShare:
        """A share that was unused for some minutes, and is kept for some."""
        now = self.people.clock()
        until = None if keep is None else now + keep * MINUTE
        return IdleShare(now - minutes * MINUTE, until, **more)

    async def tell(self, user: int, **minutes: float | IdleShare) -> Answer:
        """All idle kernels of a user, with minutes without use."""
        said = {
            name: value if isinstance(value, IdleShare) else self.idle(value)
            for name, value in minutes.items()
        }
        return await self.reclaims.hear(account(user), Holder(user, "server"), said)

    async def due(self, user: int, **minutes: float | IdleShare) -> dict[str, float | None]:
        """Minutes until each share is due that is asked back."""
        answer = await self.tell(user, **minutes)
        return {
            name: None if seconds is None else pytest.approx(seconds / 60, abs=0.01)
            for name, seconds in answer.wanted.items()
        }


async def test_the_longest_idle_of_all_users_goes_whoever_speaks_first(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        servers = Servers(people)
        for user in (1, 2):
            assert await people.ask(user, "a", "1/2")
        assert not await people.ask(3, "new", "1/2")
        assert await servers.due(1, a=10) == {"a": WARNED}, "nobody else is idle yet"
        assert await servers.due(2, a=30) == {}, "who was asked goes before who is idle longer"
        assert await servers.due(1) == {}, "she runs a cell"
        assert await servers.due(2, a=30) == {"a": WARNED}
        assert (await servers.tell(1)).waiting


async def test_everybody_sees_what_was_promised_and_only_administrators_to_whom(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        for user in (1, 2):
            assert await people.ask(user, "a", "1/2")
        assert not await people.ask(3, "whole", "1")
        assert await servers.due(1, a=30) == {}
        assert await servers.due(2, a=40) == {"a": WARNED}
        told, seen = clock() + WARNED * MINUTE, people.store.everything
        rows = {each["kernel_id"] + each["info"]["user"][-1]: each for each in await seen()}
        whose = {"uid": 70003, "user": "uid 70003", "kernel_id": "whole"}
        whose |= {"path": "n.ipynb", "size": "1"}
        for name in ("a1", "a2"):
            promise = rows[name]["promise"]
            assert promise["for"] == [whose]
            assert promise["due"] == told.isoformat() == rows["whole3"]["room_at"]
            assert promise["taken"] == (told + GRACE).isoformat()
            assert rows[name]["room_at"] is None
        assert rows["whole3"]["promise"] is None
        (own,) = await seen(account(1))
        nobody = {**dict.fromkeys(whose), "size": "1"}
        assert own["promise"] == {**rows["a1"]["promise"], "for": [nobody]}
        (waits,) = await seen(account(3))
        assert waits["room_at"] == told.isoformat()
        await servers.tell(1)  # she runs a cell
        assert not any(row["promise"] or row["room_at"] for row in await seen())
        await servers.tell(1, a=servers.idle(30, keep=60))
        (own,) = await seen(account(1))
        assert (own["promise"], own["keep_until"]) == (None, (clock() + 60 * MINUTE).isoformat())


async def test_shares_of_several_users_go_in_sets_or_not_at_all(tmp_path: Path) -> None:
    async with open_store(tmp_path, Clock()) as people:
        servers = Servers(people)
        for user in (1, 2, 3):
            assert await people.ask(user, "a", "1/4")
        assert await people.ask(4, "busy", "1/4")
        assert not await people.ask(5, "new", "1")
        for user in (1, 2, 3):
            assert await servers.due(user, a=30 + user) == {}, "not even all would do"
        assert not await people.ask(6, "half", "1/2")
        assert await servers.due(1, a=31) == {}
        for user in (2, 3):
            assert await servers.due(user, a=30 + user) == {"a": WARNED}
        await people.end(6, "half")
        for user in (1, 2, 3):
            assert await servers.due(user, a=30 + user) == {}, "nobody waits for it any more"


async def test_what_a_server_says_of_a_share_counts(tmp_path: Path) -> None:
    """Kept by its user, with variables that would be lost, used a moment ago, or on its way."""
    async with open_store(tmp_path, Clock()) as people:
        servers = Servers(people)
        for user in (1, 2):
            assert await people.ask(user, "a", "1/2")
        assert not await people.ask(3, "new", "1/2")
        assert await servers.due(1, a=servers.idle(100, keep=10)) == {}
        assert await servers.due(1, a=servers.idle(100, kept=False)) == {}
        assert await servers.due(1, a=AFTER - 1) == {}
        assert await servers.due(2, a=20) == {"a": WARNED}
        assert await servers.due(1, a=servers.idle(1, leaving=True)) == {"a": 0.0}
        assert await servers.due(2, a=20) == {}, "one is enough"
        assert await servers.due(1, a=servers.idle(1, leaving=True), unknown=600) == {"a": 0.0}
        assert people.store.idle.rows().keys() == {"70001/a", "70002/a"}


async def test_the_limit_of_a_promise_to_keep_is_the_administrators(tmp_path: Path) -> None:
    clock, policy = Clock(), IdlePolicy(keep_limit=600)
    async with open_store(tmp_path, clock, policy=policy) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1")
        assert not await people.ask(2, "new", "1")
        for minute in range(10):
            kept = servers.idle(100 + minute, keep=1440 - minute)
            assert await servers.due(1, a=kept) == {}
            clock.wait(1)
        assert await servers.due(1, a=servers.idle(110, keep=1430)) == {"a": WARNED}


async def test_a_promise_stands_while_its_server_says_nothing_and_over_a_restart(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1/2")
        assert await people.ask(2, "a", "1/2")
        assert not await people.ask(3, "new", "1/2")
        assert await servers.due(1, a=30) == {"a": WARNED}
        promises = people.store.idle.promises
        clock.wait(1)
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await servers.due(2, a=60) == {}, "the other was asked before"
        clock.wait(0.5)
        assert await servers.due(1, a=31.5) == {"a": WARNED - 1.5}
        clock.wait(LIFETIME / MINUTE)
        assert await servers.due(2, a=61) == {}, "though nothing was heard of it"
        assert people.store.idle.promises == promises
        rows = await people.rows()
        assert rows["1/a"]["idle_seconds"] == pytest.approx(60 * 32)
        await people.end(1, "a")
        assert await people.holding() == {"2/a", "3/new"}
        assert people.store.idle.rows().keys() == {"70002/a"}


async def test_a_share_that_was_used_between_two_words_is_promised_anew(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1")
        assert not await people.ask(2, "new", "1")
        assert await servers.due(1, a=AFTER) == {"a": WARNED}
        clock.wait(AFTER + 1)
        assert await servers.due(1, a=AFTER) == {"a": WARNED}, "its time was over, but for a cell"


async def test_what_is_heard_while_it_is_decided_counts(tmp_path: Path) -> None:
    """The decision is made beside what goes on."""
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1")
        assert not await people.ask(2, "new", "1")
        await servers.tell(1, a=30)
        shares = people.store.idle
        snapshot, claims, _ = await people.store.look(people.store.idle_claims)
        decided = shares.decide(snapshot, claims, clock())
        assert decided.keys() == {"70001/a"}
        shares.hear("70001/", Holder(1, "server"), {}, clock())
        shares.promise(decided)
        assert shares.promises == {}


async def test_a_word_counts_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1")
        await servers.tell(1, a=30)
        clock.wait(LIFETIME / MINUTE)
        assert not await people.ask(2, "new", "1")
        await servers.tell(2)
        assert people.store.idle.since(clock()) == {}, "it may be used again"
        assert await servers.due(1, a=31) == {"a": WARNED}


async def test_what_an_administrator_asks_back_is_due_once_it_is_idle_for_long_enough(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        servers = Servers(people)
        assert await people.ask(1, "a", "1/2")
        await people.store.ask_back(70001, "a")
        assert await servers.due(1) == {}
        assert await servers.due(1, a=1) == {"a": None}, "by its server's own rule"
        clock.wait(AFTER)
        assert await servers.due(1, a=AFTER + 1) == {"a": WARNED}
        assert (await servers.tell(1, a=AFTER + 1)).waiting


async def test_shares_of_those_whose_hours_are_used_up_go_first(tmp_path: Path) -> None:
    clock = Clock()
    hours = {"resource": "gpu_hours", "limit": 1, "window": 7, "scope": {"user": ["uid 70001"]}}
    async with open_store(tmp_path, clock, limits=Limits([hours])) as people:
        servers = Servers(people)
        for user in (1, 2):
            assert await people.ask(user, "a", "1/2")
        clock.wait(120)
        await servers.tell(2, a=60)
        await servers.tell(1, a=10)
        assert not await people.ask(3, "new", "1/2")
        assert await servers.due(2, a=60) == {}
        assert await servers.due(1, a=10) == {"a": WARNED}


def test_another_server_of_a_user_does_not_take_back_what_one_says() -> None:
    shares, now = IdleShares(POLICY), Clock()()
    one, other = Holder(1, "one"), Holder(2, "other")
    shares.hear("1/", one, {"1/a": IdleShare(now)}, now)
    shares.hear("1/", other, {"1/b": IdleShare(now)}, now)
    shares.hear("11/", one, {}, now)
    assert shares.since(now).keys() == {"1/a", "1/b"}
    shares.hear("1/", one, {}, now)
    assert shares.since(now).keys() == {"1/b"}


@pytest.mark.parametrize(
    "value",
    [
        *(None, "1", True, float("nan"), {}, {"idle_seconds": "1"}),
        {"idle_seconds": 1, "user": "x"},
        {"idle_seconds": 1, "kept": 1},
        {"idle_seconds": 1, "keep_seconds": float("inf")},
    ],
)
def test_what_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="The field kernels has"):
        idle_from_json(value, Clock()())


def test_what_is_told_of_an_idle_share_is_read_again() -> None:
    now = Clock()()
    share = IdleShare(now - 7 * MINUTE, now + MINUTE, kept=False, leaving=True)
    assert idle_from_json(idle_to_json(share, now), now + 2 * MINUTE) == IdleShare(
        now - 5 * MINUTE, now + 3 * MINUTE, kept=False, leaving=True
    )
    assert idle_from_json(60.0, now) == IdleShare(now - MINUTE), "of the version before"
    for_ever = idle_from_json({"idle_seconds": 1e300, "keep_seconds": 1e300}, now)
    assert for_ever.since < now < (for_ever.keep_until or now)
    assert idle_from_json(-5, now) == IdleShare(now)


# -- against a naive model -------------------------------------------------------------------------

USERS = range(1, 5)
PARTS = ["1/8", "1/4", "3/8", "1/2"]

#: Who holds what, since how many minutes each is idle (None: used), and what one waits for.
_SCENE = st.tuples(
    st.lists(
        st.tuples(
            st.sampled_from(USERS),
            st.sampled_from(PARTS),
            st.one_of(st.none(), st.integers(int(AFTER) + 1, 90)),
        ),
        max_size=8,
    ),
    st.sampled_from([*PARTS, "3/4", "1"]),
    st.permutations(USERS),
)


def naive(held: dict[str, tuple[Fraction, int | None]], wanted: Fraction) -> tuple[str, ...] | None:
    """Of all sets of idle shares that are enough, the one whose most recently used share is idle
    for longest, then the next of it, and so on; None where there is none."""
    free = 1 - sum((part for part, _ in held.values()), Fraction(0))
    idle = [name for name, (_, since) in held.items() if since is not None]
    order = sorted(idle, key=lambda name: -(held[name][1] or 0))
    sets = [
        each
        for number in range(len(order) + 1)
        for each in combinations(range(len(order)), number)
        if free + sum((held[order[place]][0] for place in each), Fraction(0)) >= wanted
    ]
    if not sets:
        return None
    best = min(sets, key=lambda each: sorted(each, reverse=True))
    return tuple(sorted(order[place] for place in best))


@given(_SCENE)
@settings(max_examples=40, deadline=None)
def test_what_goes_is_what_a_naive_model_says(
    scene: tuple[list[tuple[int, str, int | None]], str, list[int]],
) -> None:
    rows, wanted, speakers = scene

    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with open_store(Path(folder), Clock()) as people:
                held: dict[str, tuple[Fraction, int | None]] = {}
                ages = {each[2] for each in rows if each[2] is not None}
                distinct = dict(zip(sorted(ages), range(int(AFTER) + 1, 999), strict=False))
                for number, (user, size, idle) in enumerate(rows):
                    age = None if idle is None else distinct[idle] * 10 + number
                    if await people.ask(user, f"k{number}", size):
                        held[f"{user}/k{number}"] = Fraction(size), age
                    else:
                        await people.end(user, f"k{number}")
                servers, waits = Servers(people), False
                going: set[str] = set()
                for turn in range(2):  # each has spoken before the first is asked
                    if turn:
                        waits = not await people.ask(9, "new", wanted)
                    for user in speakers:
                        said = {
                            name.partition("/")[2]: float(age)
                            for name, (_, age) in held.items()
                            if age is not None and name.startswith(f"{user}/")
                        }
                        answer = await servers.tell(user, **said)
                        assert turn or not answer.wanted
                        going |= {f"{user}/{name}" for name in answer.wanted}
                expected = naive(held, Fraction(wanted)) if waits else ()
                assert going == set(expected or ())
                for name in going:
                    user, _, kernel = name.partition("/")
                    await people.end(int(user), kernel)
                if expected is not None:
                    assert "9/new" in await people.holding()

    asyncio.run(run())
