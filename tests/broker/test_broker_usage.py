"""What users held is counted: by day, over restarts, and for limits of hours."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from broker_users import ANN, BOB, RunningBroker, User, user
from servers import until

from jupyter_gpu_share.broker.books import Books, Held
from jupyter_gpu_share.cli import main

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
HALF = Held("ann", frozenset({"staff"}), Fraction(1, 2), idle=False)


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def books(folder: Path, clock: Clock, window: timedelta = timedelta(days=1)) -> Books:
    made = Books(folder, window, clock)
    made.open()
    return made


def amounts(made: Books, name: str) -> list[tuple[float, float]]:
    """Used and idle GPU-seconds of each day."""
    return [(row["used"], row["idle"]) for row in made.rows() if row["name"] == name]


def test_what_is_held_is_counted_until_it_goes_back(tmp_path: Path) -> None:
    clock = Clock()
    made = books(tmp_path, clock)
    made.see({"k": HALF})
    clock.wait(60)
    made.see({"k": Held("ann", frozenset({"staff"}), Fraction(1, 2), idle=True)})
    clock.wait(20)
    made.see({})
    clock.wait(1000)
    assert amounts(made, "ann") == amounts(made, "staff") == [(30.0, 10.0)]
    assert made.rows("ann") == [
        {"day": "2026-03-01", "of": "user", "name": "ann", "held": 40.0, "used": 30.0, "idle": 10.0}
    ]
    assert made.rows("bob") == []
    assert sum(use.gpus * (use.end - use.begin).seconds for use in made.used() if use.end) == 40


@pytest.mark.parametrize("orderly", [True, False])
def test_a_restart_loses_nothing_of_what_was_saved(tmp_path: Path, orderly: bool) -> None:
    """A share that is held still was held meanwhile, another one until the broker was back."""
    clock = Clock()
    made = books(tmp_path, clock)
    made.see({"stays": HALF, "goes": HALF})
    clock.wait(10)
    made.save()
    if not orderly:  # killed: what was saved is older
        clock.wait(5)
    clock.wait(10)
    again = books(tmp_path, clock)
    again.see({"stays": HALF})
    clock.wait(10)
    whole = 30 if orderly else 35
    assert amounts(again, "ann") == [(whole / 2 + (whole - 10) / 2, 0.0)]
    assert (tmp_path / "account.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"open": 1}', "\x00"])
def test_an_account_that_cannot_be_read_is_put_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "account.json").write_text(content)
    clock = Clock()
    made = books(tmp_path, clock)
    made.see({"k": HALF})
    clock.wait(2)
    assert amounts(made, "ann") == [(1.0, 0.0)]
    made.save()
    assert (tmp_path / "account.unread").read_text() == content
    assert json.loads((tmp_path / "account.json").read_text())["open"]


def test_hours_that_are_used_up_refuse_the_next_claim(common: Path) -> None:
    hours = '{"resource": "gpu_hours", "limit": "0.00001", "window": 7, "scope": {"user": ["*"]}}'
    running = RunningBroker(common, f"c.Broker.limits = [{hours}]")
    running.start()
    try:
        with user(ANN, running.socket) as ann, user(BOB, running.socket) as bob:
            ann.claim("a", "1/2")
            until(lambda: held(ann) > 0.1, "some is used")
            status, told = ann.ask("PUT", "/v1/shares/b", {"size": "1/4"})
            assert status == 409
            assert "GPU-hours in 7 days and has used" in str(told)
            assert bob.claim("b", "1/4")["state"] == "held"
            assert ann.claim("c", "0") is not None, "what needs no GPU costs no hours"
            assert ann.kernels()["a"] == "held", "what runs goes on"
            running.kill(signal.SIGTERM)
            running.start()
            assert ann.ask("PUT", "/v1/shares/b", {"size": "1/4"})[0] == 409
    finally:
        running.kill()


def held(one: User) -> float:
    """GPU-seconds of all days."""
    return sum(row["held"] for row in one.ok("GET", "/v1/usage"))


def test_everybody_sees_their_own_and_an_administrator_all(
    broker: RunningBroker, ann: User, bob: User, monkeypatch: Any, capsys: Any
) -> None:
    ann.claim("a", "1/2")
    bob.claim("b", "1/2")
    ann.ok("PUT", "/v1/idle", {"kernels": {"a": 1.0}})
    until(lambda: held(ann) > 0 and held(bob) > 0, "some is used")
    (row,) = ann.ok("GET", "/v1/usage")
    assert row["name"] == f"uid {ANN}"
    until(lambda: ann.ok("GET", "/v1/usage")[0]["idle"] > 0, "some of it is idle")
    assert ann.ask("GET", "/v1/admin/usage")[0] == 403
    monkeypatch.setenv("JUPYTER_GPU_SHARE_BROKER", str(broker.socket))
    assert printed(capsys, "usage", "--all").splitlines()[0].split()[:3] == ["DAY", "(UTC)", "OF"]
    rows = json.loads(printed(capsys, "usage", "--all", "--json"))
    assert {row["name"] for row in rows} == {f"uid {ANN}", f"uid {BOB}"}
    lines = printed(capsys, "usage", "--all", "--csv").splitlines()
    assert lines[0] == "day,of,name,held,used,idle"
    assert len(lines) == 3
    assert printed(capsys, "usage") == "Nothing was held yet.\n"


def printed(capsys: Any, *words: str) -> str:
    """What the command prints."""
    capsys.readouterr()
    assert main(list(words)) == 0
    text: str = capsys.readouterr().out
    return text


def test_without_a_broker_the_command_says_who_starts_one(monkeypatch: Any, capsys: Any) -> None:
    find: Callable[[], None] = lambda: None  # noqa: E731
    monkeypatch.setattr("jupyter_gpu_share.broker.client.find_broker", find)
    assert main(["usage"]) == 1
    assert "jupyter gpu-share broker" in capsys.readouterr().err
