"""Hours of a window at a store: what all that was held comes to, without summing it each time."""

from __future__ import annotations

import asyncio
import random
import threading
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from brokers import account, open_store
from moments import Clock
from waiting import PATIENCE

from jupyter_gpu_share.broker.account import Account
from jupyter_gpu_share.broker.given_back import Held
from jupyter_gpu_share.broker.limits import Limits
from jupyter_gpu_share.broker.meters import Meter
from jupyter_gpu_share.broker.store import Refused

DAY = timedelta(days=1)
RULES = [
    {"resource": "gpu_hours", "limit": 3, "window": 1, "scope": {"user": ["*"]}},
    {"resource": "gpu_hours", "limit": 6, "window": "0.5", "scope": "total"},
]


@pytest.mark.parametrize("seed", range(8))
async def test_who_is_refused_has_used_it_by_all_that_was_held(tmp_path: Path, seed: int) -> None:
    """Also after a restart of the broker, and after its clock was set back."""
    chance, clock, asked = random.Random(seed), Clock(), {True: 0, False: 0}
    for _ in range(4):
        async with open_store(tmp_path, clock, "4xA100-80GB", limits=Limits(RULES)) as people:
            for number in range(25):
                clock.wait(chance.choice([0, 1, 20, 90, -1]))
                user, name = chance.randint(1, 3), str(number % 5)
                if f"{user}/{name}" in await people.holding():
                    await people.end(user, name)
                    continue
                store, now = people.store, clock()
                used = await store.look(lambda ledger, store=store: store._books.used())
                sums = [
                    Meter.of(used, ("user", account(user).user), DAY, now).hours(now) >= 3,
                    Meter.of(used, ("total", ""), DAY / 2, now).hours(now) >= 6,
                ]
                asked[any(sums)] += 1
                try:
                    await people.ask(user, name, chance.choice(["1/2", "1", "1/4"]))
                except Refused:
                    assert any(sums)
                else:
                    assert not any(sums)
        clock.wait(chance.choice([0, 600]))
    assert min(asked.values()) > 3, "some were refused, and some were not"


async def test_a_claim_costs_the_same_whatever_was_held_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, summed = Clock(), []
    of = Meter.of
    monkeypatch.setattr(Meter, "of", lambda *given: summed.append(given) or of(*given))
    async with open_store(tmp_path, clock, limits=Limits(RULES)) as people:
        for user in (1, 2):
            assert await people.ask(user, "a", "1/4")
        before = len(summed)
        for _ in range(20):
            clock.wait(1)
            for user in (1, 2):
                await people.end(user, "a")
                assert await people.ask(user, "a", "1/4")
        assert len(summed) == before


async def test_claims_do_not_wait_for_who_asks_what_was_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, over = Clock(), threading.Event()

    def slow(self: Account, now: datetime) -> None:
        assert over.wait(PATIENCE), "nobody else was served"

    async with open_store(tmp_path, clock) as people:
        monkeypatch.setattr(Account, "settle", slow)
        asking = [
            asyncio.create_task(each)
            for each in (
                people.store.usage(account(1)),
                people.store.usage(),
                people.store.totals(),
                people.store.sweep(),
            )
        ]
        await asyncio.sleep(0)
        assert await people.ask(1, "a", "1/4")
        over.set()
        await asyncio.gather(*asking)


@pytest.mark.parametrize("part", [Fraction(1, n) for n in range(1, 17)] + [Fraction(37, 100)])
def test_usual_parts_of_a_gpu_are_counted_exactly(part: Fraction) -> None:
    assert Held("ann", frozenset(), part, idle=False).gpus == part


async def test_sizes_that_a_user_makes_up_do_not_make_the_account_longer(tmp_path: Path) -> None:
    """Sums of hundreds of fractions that have nothing in common, which no text can hold."""
    clock = Clock()
    async with open_store(tmp_path, clock, limits=Limits(RULES)) as people:
        for number in range(500):
            assert await people.ask(1, "a", f"1/{10**10 + 2 * number + 1}")
            clock.wait(1 / 7)
            await people.end(1, "a")
        (row,) = await people.store.usage(account(1))
        assert row["held"] == pytest.approx(500 * 60 / 7 / 10**10, rel=0.01)
    assert len((tmp_path / "account.json").read_text()) < 200_000
    async with open_store(tmp_path, clock) as people:
        assert (await people.store.usage(account(1)))[0]["held"] == row["held"]
