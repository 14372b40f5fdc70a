"""The engine `local` on a machine with a broker: it needs no setting, and waits for one away."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from broker_users import RunningBroker, User
from waiting import PATIENCE, eventually

from jupyter_gpu_share.broker.client import BROKER, BrokerAway, BrokerClient, find_broker
from jupyter_gpu_share.engines.base import KernelRequest, Running
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.local import LocalEngine
from jupyter_gpu_share.errors import EngineError
from jupyter_gpu_share.size import Size

AWAY = "The broker of this machine does not answer"


@pytest.fixture
async def engine(
    broker: RunningBroker, jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LocalEngine]:
    monkeypatch.setenv(BROKER, str(broker.socket))
    monkeypatch.delenv("JUPYTER_GPU_SHARE_SIMULATE", raising=False)
    own = LocalEngine(queue_interval=0.02)
    yield own
    await own.close()


def start(engine: LocalEngine, kernel: str, size: str) -> tuple[asyncio.Task[Running], list[Any]]:
    argv = [sys.executable, "-c", "import time; time.sleep(99)"]
    told: list[Any] = []
    request = KernelRequest(
        kernel, "python3", Size.parse(size), argv, {}, b"key", path="n.ipynb", user="somebody else"
    )
    return asyncio.create_task(engine.start(request, told.append)), told


async def running(engine: LocalEngine, kernel: str, size: str) -> Running:
    task, _ = start(engine, kernel, size)
    return await asyncio.wait_for(task, PATIENCE)


def all_shares(broker: RunningBroker) -> dict[str, Any]:
    root = BrokerClient(broker.socket)
    try:
        return {row["kernel_id"]: row for row in root.ask("GET", "/v1/admin/shares")}
    finally:
        root.close()


async def test_a_kernel_has_its_share_from_the_broker(
    engine: LocalEngine, broker: RunningBroker, jupyter_dirs: Path
) -> None:
    found = await running(engine, "a", "1/4")
    assert found.share.memory_bytes == 20 * 2**30
    assert found.share.simulated, "as the broker does"
    row = all_shares(broker)["a"]
    assert (row["pid"], row["kernel_pid"]) == (os.getpid(), found.pid)
    assert row["info"] == {
        "kernel_name": "python3",
        "path": "n.ipynb",
        "isolation": found.share.isolation.value,
        "user": "root",
        "uid": 0,
    }
    (gpu,) = await engine.capacity()
    assert (gpu.free_bytes, gpu.kernels) == (60 * 2**30, 1)
    (allocation,) = await engine.allocations()
    assert (allocation.kernel_id, allocation.user) == ("a", "root")
    assert not list(jupyter_dirs.rglob("*.db")), "no ledger of its own"
    await engine.stop("a")
    assert all_shares(broker) == {}


async def test_a_kernel_waits_for_another_user(engine: LocalEngine, ann: User) -> None:
    ann.claim("hers", "3/4")
    task, told = start(engine, "a", "1/2")
    await eventually(lambda: told, "it waits")
    assert "40 GiB" in told[0].reason
    assert await engine.fits("b", Size.parse("1/2")) is not None
    assert await engine.fits("b", Size.parse("1/8")) is None, "it may pass for a while"
    snapshot = await engine.snapshot()
    assert snapshot is not None
    assert [waiter.kernel_id for waiter in snapshot.waiting] == ["a"]
    ann.ok("DELETE", "/v1/shares/hers")
    assert (await asyncio.wait_for(task, PATIENCE)).share.devices


async def test_a_share_changes_goes_and_comes_back(engine: LocalEngine, ann: User) -> None:
    first = await running(engine, "a", "1/4")
    changed = await engine.change("a", Size.parse("1/2"))
    assert changed.memory_bytes == 40 * 2**30
    await engine.give_back("a")
    assert ann.claim("hers", "1")["state"] == "held"
    told: list[Any] = []
    back = asyncio.create_task(engine.take_back("a", told.append))
    await eventually(lambda: told, "it waits")
    ann.ok("DELETE", "/v1/shares/hers")
    share = await asyncio.wait_for(back, PATIENCE)
    assert share.devices == first.share.devices


async def test_what_a_kernel_does_without_is_counted_until_it_holds_it_or_ends(
    engine: LocalEngine, broker: RunningBroker
) -> None:
    async def goes_on() -> bool:
        before = given_back(broker)
        return given_back(broker) > before

    await running(engine, "a", "1/4")
    assert not await goes_on()
    await engine.put_away("a")
    await eventually(goes_on, "its notebook goes on")
    await running(engine, "a", "1/4")
    assert not await goes_on()
    await engine.give_back("a")
    await eventually(goes_on, "its process goes on")
    await engine.take_back("a", lambda news: None)
    assert not await goes_on()
    await engine.give_back("a")
    await engine.stop("a")
    assert not await goes_on()


def given_back(broker: RunningBroker) -> float:
    """GPU-seconds that kernels did without."""
    root = BrokerClient(broker.socket)
    try:
        return sum(row["given_back"] for row in root.ask("GET", "/v1/usage"))
    finally:
        root.close()


async def test_while_the_broker_is_away_what_runs_goes_on_and_what_starts_waits(
    engine: LocalEngine, broker: RunningBroker, ann: User
) -> None:
    found = await running(engine, "a", "1/4")
    ann.claim("hers", "1/2")
    broker.kill()
    task, told = start(engine, "b", "1/2")
    await eventually(lambda: told and AWAY in told[-1].reason, "it says what it waits for")
    assert "What runs goes on" in told[-1].reason
    await engine.usage(frozenset())
    assert found.pid is not None
    os.kill(found.pid, 0)
    await engine.note_path("a", "renamed.ipynb")
    (finding,) = [each for each in await engine.diagnose() if each.level == "error"]
    assert AWAY in finding.what
    broker.start()
    await eventually(lambda: "40 GiB" in told[-1].reason, "it stands in the queue")
    await engine.usage(frozenset())
    assert all_shares(broker)["a"]["info"]["path"] == "renamed.ipynb", "told when it was back"
    ann.ok("DELETE", "/v1/shares/hers")
    await asyncio.wait_for(task, PATIENCE)
    rows = all_shares(broker)
    assert {name: row["state"] for name, row in rows.items()} == {"a": "held", "b": "held"}


async def test_a_server_that_starts_while_the_broker_is_away_waits_for_it(
    engine: LocalEngine, broker: RunningBroker
) -> None:
    broker.kill()
    with pytest.raises(BrokerAway, match=AWAY):
        await engine.capacity()
    task, told = start(engine, "a", "1/4")
    await eventually(lambda: told, "it says what it waits for")
    assert AWAY in told[0].reason
    broker.start()
    assert (await asyncio.wait_for(task, PATIENCE)).share.simulated


async def test_a_share_that_was_given_up_while_the_broker_was_away_goes_when_it_is_back(
    engine: LocalEngine, broker: RunningBroker
) -> None:
    await running(engine, "a", "1/4")
    broker.kill()
    await engine.stop("a")
    broker.start()
    await eventually(lambda: all_shares(broker) == {}, "it is given back")


async def test_a_broker_that_lost_its_record_is_not_told_what_to_believe(
    engine: LocalEngine, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await running(engine, "a", "1/4")
    await engine.usage(frozenset())
    broker.kill()
    broker.ledger.unlink()
    broker.start()

    async def told() -> list[str]:
        await engine.usage(frozenset())
        messages = [row.getMessage() for row in caplog.records]
        return [text for text in messages if "knows of no share" in text]

    with caplog.at_level(logging.ERROR):
        await eventually(told, "it is told")
        broker.kill()
        broker.start()
        assert broker.log.read_text().count("listens") == 3
        (line,) = await told()
    assert "restart that kernel" in line
    assert all_shares(broker) == {}


async def test_what_was_promised_of_an_idle_share_stands_while_the_broker_is_away_and_after(
    engine: LocalEngine, broker: RunningBroker, ann: User
) -> None:
    await running(engine, "a", "1")
    now = datetime.now(timezone.utc)
    share = IdleShare(now - timedelta(hours=1))
    assert await engine.wanted({"a": share}) == {}
    assert ann.claim("hers", "1/4")["state"] == "waiting"

    async def due() -> datetime | None:
        asked = await engine.wanted({"a": share})
        assert asked is not None
        return asked["a"].due if "a" in asked else None

    first = await eventually(due, "it hears that somebody waits")
    assert first is not None
    assert timedelta(seconds=119) < first - now < timedelta(seconds=120 + PATIENCE)
    broker.kill()
    assert await due() is not None
    broker.start()
    again = await due()
    assert again is not None
    assert abs(again - first) < timedelta(seconds=2), "the broker knows what it has promised"
    ann.ok("DELETE", "/v1/shares/hers")
    assert await engine.wanted({"a": share}) == {}
    assert await engine.wanted({"a": replace(share, kept=False)}) == {}, "told at once"
    rows = all_shares(broker)
    assert rows["a"]["idle_seconds"] > 3600


async def test_a_server_hears_that_a_share_was_taken(
    engine: LocalEngine, broker: RunningBroker
) -> None:
    await running(engine, "a", "1/4")
    share = IdleShare(datetime.now(timezone.utc))
    assert await engine.wanted({"a": share, "unknown": share}) == {}
    await engine.change("a", Size.parse("1/2"))
    assert await engine.wanted({"a": replace(share, leaving=True)}) == {}, (
        "it has what it asked for"
    )
    root = BrokerClient(broker.socket)  # the engine's user, too
    for taken in (("POST", "/v1/shares/a/change", {"size": "1GiB"}), ("DELETE", "/v1/shares/a")):
        root.ask(*taken)
        assert await engine.wanted({}) == {}
        asked = await engine.wanted({"a": share})
        assert asked is not None
        assert asked["a"].taken
    root.close()
    await engine.give_back("a")
    assert await engine.wanted({"a": share}) == {}, "it knows that it holds nothing"


async def test_the_users_own_settings_do_not_lead_past_the_broker(
    engine: LocalEngine, broker: RunningBroker, tmp_path: Path
) -> None:
    other = LocalEngine(directory=str(tmp_path / "own"), simulate="1xA100-80GB")
    try:
        await running(other, "mine", "1")
        task, told = start(engine, "a", "1/4")
        await eventually(lambda: told, "one broker has both")
        task.cancel()
        await asyncio.wait({task})
    finally:
        await other.close()
    assert all_shares(broker) == {}


async def test_who_simulates_other_gpus_has_nothing_to_do_with_the_broker(
    engine: LocalEngine, broker: RunningBroker
) -> None:
    other = LocalEngine(simulate="1xL4-24GB")
    try:
        found = await running(other, "mine", "1")
        assert found.share.memory_bytes == 24 * 2**30
        assert all_shares(broker) == {}
    finally:
        await other.close()


async def test_without_a_socket_there_is_no_broker(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(BROKER, raising=False)
    if not Path("/run/jupyter-gpu-share").exists():
        assert find_broker() is None
    monkeypatch.setenv(BROKER, "broker.sock")
    with pytest.raises(EngineError, match="is no path of a socket"):
        find_broker()
    monkeypatch.setenv(BROKER, "https://hub/services/gpu-share")
    with pytest.raises(EngineError, match="names the broker of a cluster"):
        find_broker()
    monkeypatch.setenv(BROKER, "unix:///nowhere/broker.sock")
    assert find_broker() == Path("/nowhere/broker.sock")


async def test_doctor_names_the_broker(engine: LocalEngine, broker: RunningBroker) -> None:
    (finding,) = [each for each in await engine.diagnose() if "broker" in each.what]
    assert finding.level == "ok"
    assert finding.what == (
        f"The broker of this machine keeps the shares ({broker.socket}): root holds 0, and 0 wait."
    )
