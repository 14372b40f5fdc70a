"""What users held is counted: by day, over restarts, and for limits of hours."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from broker_users import ANN, BOB, RunningBroker, User, user
from servers import until

from jupyter_gpu_share.broker.books import Books
from jupyter_gpu_share.broker.client import BrokerClient
from jupyter_gpu_share.broker.given_back import GivenBack, Held
from jupyter_gpu_share.cli import main
from jupyter_gpu_share.engines._processes import Holder, boot_id, this_process

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
        {
            "day": "2026-03-01",
            "of": "user",
            "name": "ann",
            "held": 40.0,
            "used": 30.0,
            "idle": 10.0,
            "given_back": 0.0,
        }
    ]
    assert made.rows("bob") == []
    assert sum(use.gpus * (use.end - use.begin).seconds for use in made.used() if use.end) == 40


def given_back(made: Books) -> float:
    """GPU-seconds of all days that ann's kernels did without."""
    return sum(row["given_back"] for row in made.rows("ann"))


def test_what_is_given_back_is_counted_until_the_wake_is_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    made = books(tmp_path, clock)
    made.see({"k": HALF})
    clock.wait(10)
    made.given_back.add("k", HALF, this_process())
    made.see({})
    clock.wait(60)
    made.see({}, waiting=["k"])
    clock.wait(1000)
    made.see({})  # it has left the queue
    clock.wait(4)
    made.see({"k": HALF})
    clock.wait(6)
    made.see({})  # it has ended
    clock.wait(1000)
    assert (amounts(made, "ann"), given_back(made)) == ([(8.0, 0.0)], 32.0)


def test_what_is_given_back_outlives_the_broker_but_not_its_server(tmp_path: Path) -> None:
    clock = Clock()
    made = books(tmp_path, clock)
    with subprocess.Popen(["sleep", "1000"]) as server:
        made.given_back.add("goes", HALF, Holder.of(server.pid))
        made.given_back.add("stays", HALF, this_process())
        made.see({})
        made.save()
        server.kill()
    clock.wait(10)
    again = books(tmp_path, clock)
    again.see({})
    clock.wait(20)
    assert given_back(again) == (10 + 30) / 2
    assert again.given_back.servers == {this_process()}


def test_kernels_of_an_earlier_boot_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = GivenBack(1)
    before.add("k", HALF, this_process())
    saved = before.to_json()
    monkeypatch.setattr("jupyter_gpu_share.broker.given_back.boot_id", lambda: "another")
    after = GivenBack(1)
    after.read(saved)
    assert not after.shares


@pytest.mark.parametrize("content", [None, {}, {"kernels": [[]]}, {"kernels": [[1, 2, 3]]}])
def test_a_record_of_what_is_given_back_that_cannot_be_read_is_refused(content: Any) -> None:
    data = {"boot": boot_id(), **content} if content is not None else content
    with pytest.raises(ValueError, match="no record"):
        GivenBack(1).read(data)


def test_one_user_has_so_many_kernels_given_back_and_no_more() -> None:
    known = GivenBack(2)
    for name in ("a", "b", "c", "a"):
        known.add(name, HALF, this_process())
    known.add("d", Held("bob", frozenset(), Fraction(1), idle=False), this_process())
    assert known.shares.keys() == {"a", "b", "d"}


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


@pytest.mark.parametrize("changed", [False, True])
def test_nothing_is_held_while_the_machine_is_off(tmp_path: Path, changed: bool) -> None:
    """It is not known when it went down, but until when the broker was there."""
    clock, window = Clock(), timedelta(days=7)
    made = Books(tmp_path, window, clock, boot="one")
    made.open()
    made.see({"k": HALF})
    made.save()
    clock.wait(60)
    if changed:
        made.see({"k": HALF, "other": HALF})
    made.save()
    mean = made.mean("ann", clock())
    clock.wait(3 * 86400)
    made = Books(tmp_path, window, clock, boot="two")
    made.open()
    made.see({})
    assert amounts(made, "ann") == amounts(made, "staff") == [(30.0, 0.0)]
    assert sum(use.gpus * (use.end - use.begin).seconds for use in made.used() if use.end) == 30
    assert made.mean("ann", clock()) == pytest.approx(mean / 8), "half of it after each day"
    assert not made.holding
    made.see({"k": HALF})
    clock.wait(10)
    made.save()
    clock.wait(10)
    again = Books(tmp_path, window, clock, boot="two")
    again.open()
    again.see({"k": HALF})
    assert sum(used for used, _ in amounts(again, "ann")) == 40, "the broker alone was away"


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
    assert lines[0] == "day,of,name,held,used,idle,given_back"
    assert len(lines) == 3
    assert printed(capsys, "usage") == "Nothing was held yet.\n"


def test_a_kernel_that_lives_on_without_its_share_is_counted(
    broker: RunningBroker, ann: User
) -> None:
    def amount() -> float:
        return sum(row["given_back"] for row in ann.ok("GET", "/v1/usage"))

    assert ann.ask("DELETE", "/v1/shares/a?lives_on=perhaps")[0] == 400
    ann.claim("a", "1")
    for _ in range(2):  # the first answer was lost
        ann.ok("DELETE", "/v1/shares/a?lives_on=true")
    until(lambda: amount() > 0, "it is counted")
    broker.kill(signal.SIGTERM)
    broker.start()
    before = amount()
    until(lambda: amount() > before, "it goes on after a restart")
    ann.ok("DELETE", "/v1/shares/a")
    ended = amount()
    ann.claim("other", "1")
    until(lambda: held(ann) > 0.1, "time goes by")
    assert amount() == ended
    with user(BOB, broker.socket) as bob:
        ann.ok("DELETE", "/v1/shares/other?lives_on=true")
        until(lambda: amount() > ended, "it is counted")
        ann.kill()
        root = BrokerClient(broker.socket)
        bob.claim("b", "1")
        count: Callable[[], float] = lambda: sum(  # noqa: E731
            row["given_back"] for row in root.ask("GET", "/v1/admin/usage")
        )
        until(lambda: count() == count(), "its server's end is seen")
        root.close()


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
