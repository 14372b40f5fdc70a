"""What the broker tells Prometheus: the amounts, and no name that is not asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from brokers import account, open_store
from moments import Clock
from prometheus_client.parser import text_string_to_metric_families

from jupyter_gpu_share.broker.account import Figures
from jupyter_gpu_share.broker.metrics import MOST_USERS, Machine, metrics_text
from jupyter_gpu_share.broker.metrics_port import read_token
from jupyter_gpu_share.broker.waits import BUCKETS, Waits
from jupyter_gpu_share.engines._places import here
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.engines.local._contents import Claim
from jupyter_gpu_share.engines.local._placement import Piece
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

HOSTILE = 'a,"b"}\n\\ 1'


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Amounts by name and labels, the prefix left out."""
    return {
        (
            sample.name.removeprefix("jupyter_gpu_share_broker_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def share(state: str, idle: float | None = None) -> dict[str, Any]:
    return {"state": state, "idle_seconds": idle}


def test_what_there_is() -> None:
    gpu = {
        "uuid": "GPU-1",
        "model": HOSTILE,
        "memory_bytes": 80,
        "held_bytes": 40,
        "free_bytes": 30,
        "other_bytes": 10,
    }
    found = samples(
        metrics_text(
            Machine(
                gpus=[gpu],
                shares=[share("held"), share("held", 9.0), share("held"), share("waiting")],
                processes=[{}, {}],
                totals={
                    ("user", "ann"): Figures(Fraction(3), Fraction(1), Fraction(7)),
                    ("user", "bob"): Figures(Fraction(2)),
                    ("group", "staff"): Figures(Fraction(5), Fraction(1), Fraction(7)),
                },
                paused=True,
            )
        )
    )
    for name, amount in (("", 80), ("held_", 40), ("free_", 30), ("unshared_", 10)):
        assert found[f"gpu_memory_{name}bytes", "GPU-1", HOSTILE] == amount
    assert [found["kernels", state] for state in ("used", "idle", "waiting")] == [2, 1, 1]
    assert found["unshared_processes",] == 2
    assert found["paused",] == 1
    assert found["held_gpu_seconds_total", "used"] == 5, "groups are not counted besides"
    assert found["held_gpu_seconds_total", "idle"] == 1
    assert found["given_back_gpu_seconds_total",] == 7
    assert not any("user" in name for name, *_ in found)
    assert not any("ann" in labels for labels in found)


def test_users_are_named_if_that_is_wanted_and_so_many_and_no_more() -> None:
    totals = {("user", f"u{n}"): Figures(Fraction(n)) for n in range(MOST_USERS + 5)}
    totals["user", HOSTILE] = Figures(Fraction(10**6), Fraction(1), Fraction(2))
    totals["group", "staff"] = Figures(Fraction(10**9))
    found = samples(metrics_text(Machine(totals=totals), by_user=True))
    assert found["user_held_gpu_seconds_total", "used", HOSTILE] == 10**6
    assert found["user_held_gpu_seconds_total", "idle", HOSTILE] == 1
    assert found["user_given_back_gpu_seconds_total", HOSTILE] == 2
    named = {labels[-1] for labels in found if labels[0] == "user_held_gpu_seconds_total"}
    assert len(named) == MOST_USERS
    assert "u5" not in named, "who held least"
    assert "staff" not in named


# -- waits ---------------------------------------------------------------------------------------


class Told:
    """Waits as a broker tells them of its claims."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits = Waits(lambda: self.now)

    def see(self, *tokens: str, size: str = "1/2") -> None:
        """All claims now; those in small letters wait."""
        self.waits.see(
            Claim(
                token.lower(),
                "k",
                Size.parse(size),
                this_process(),
                here(),
                (Piece("GPU-1", 1),) if token.isupper() else (),
                0 if token.isupper() else 1,
            )
            for token in tokens
        )

    def over(self) -> dict[float, int]:
        """How many waits are over, by the bucket that they are in."""
        at_most = self.waits.cumulative
        bounds = [*BUCKETS, float("inf")]
        each = [now - before for now, before in zip(at_most, [0, *at_most], strict=False)]
        return {bound: number for bound, number in zip(bounds, each, strict=True) if number}


def test_a_wait_is_from_the_wish_to_the_share() -> None:
    told = Told()
    told.see()
    told.see("A", "b", "c")
    assert told.over() == {0.1: 1}, "who has it at once waited, too: no time"
    told.now = 20.0
    told.see("A", "b", "c")
    assert (told.waits.longest, told.over()) == (20.0, {0.1: 1})
    told.see("A", "B")  # the other one has left the queue
    assert (told.waits.longest, told.waits.total) == (0.0, 20.0)
    assert told.over() == {0.1: 1, 30.0: 1}
    told.see("B")
    told.see("a", "B")  # it comes back with its token
    told.now = 10**6
    told.see("A", "B")
    assert told.over() == {0.1: 1, 30.0: 1, float("inf"): 1}


def test_what_was_held_when_the_broker_began_is_not_counted_again() -> None:
    told = Told()
    told.see("A", "b")
    told.now = 5.0
    told.see("A", "B")
    assert told.over() == {5.0: 1}


def test_what_needs_no_gpu_does_not_wait() -> None:
    told = Told()
    told.see()
    told.see("A", size="0")
    assert told.over() == {}


async def test_a_store_counts_each_wait_once(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path, clock) as people:
        assert await people.ask(1, "a", "1")
        assert not await people.ask(2, "b", "1")
        assert people.store.waits.cumulative[-1] == 1
        assert people.store.waits.longest > 0
        await people.end(1, "a")
        assert people.store.waits.cumulative[-1] == 2
        clock.wait(1)
        totals = await people.store.totals()
        assert totals["user", account(2).user].held == 60
    async with open_store(tmp_path, clock) as people:
        assert people.store.waits.cumulative[-1] == 0


# -- the token -----------------------------------------------------------------------------------


def test_a_token_that_everybody_knows_is_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(EngineError, match="cannot be read"):
        read_token(str(file))
    file.touch(0o600)
    with pytest.raises(EngineError, match="is empty"):
        read_token(str(file))
    file.write_text("secret\n")
    assert read_token(str(file)) == "secret"
    file.chmod(0o644)
    with pytest.raises(EngineError, match="open to everybody"):
        read_token(str(file))
    assert read_token("") == ""
