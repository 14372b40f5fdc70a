"""Ends and returns: of users' processes, of kernels, and of the broker itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from broker_users import ANN, BOB, RunningBroker, User, user
from waiting import eventually

from jupyter_gpu_share.broker import daemon
from jupyter_gpu_share.broker.client import BrokerClient
from jupyter_gpu_share.engines.local import _machine


async def test_a_server_that_ends_leaves_its_share_to_who_waits(ann: User, bob: User) -> None:
    ann.claim("a", "1")
    assert bob.claim("b", "1")["state"] == "waiting"
    ann.kill()
    await eventually(lambda: bob.kernels() == {"b": "held"}, "it is free, and given on")


async def test_the_system_tells_the_broker_of_ends(
    common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not depend on looking now and then."""
    monkeypatch.setattr(daemon, "_SWEEP_INTERVAL", 24 * 3600.0)
    own = daemon.LocalBroker(
        socket=str(common / "run" / "broker.sock"),
        folder=str(common / "state"),
        simulate="1xA100-80GB",
    )
    await own.start()
    try:
        with user(ANN, common / "run" / "broker.sock") as ann:
            await asyncio.to_thread(ann.claim, "a", "1")
            assert [row["kernel_id"] for row in await own.store.everything()] == ["a"]
            ann.kill()
            await eventually(lambda: not own.store.processes, "its end is seen")
            assert await own.store.everything() == []
    finally:
        await own.close()


async def test_a_kernel_that_outlives_its_server_holds_its_share(
    broker: RunningBroker, ann: User, bob: User
) -> None:
    with subprocess.Popen(["sleep", "99"], user=ANN, group=ANN, extra_groups=[]) as kernel:
        ann.claim("a", "1")
        ann.ok("PATCH", "/v1/shares/a", {"kernel_pid": kernel.pid})
        bob.claim("b", "1")
        ann.kill()
        root = BrokerClient(broker.socket)
        log = broker.log.read_text()
        # Two claims and a second server of the same user: she has lost nothing.
        with user(ANN, broker.socket) as second:
            assert second.kernels() == {"a": "held"}
            assert bob.kernels() == {"b": "waiting"}
            kernel.kill()
            await eventually(lambda: bob.kernels() == {"b": "held"}, "its end is seen")
            assert second.kernels() == {}
        assert broker.log.read_text() == log
        root.close()


async def test_a_broker_that_comes_back_knows_who_holds_what(
    broker: RunningBroker, ann: User, bob: User
) -> None:
    ann.claim("a", "1")
    bob.claim("b", "1")
    ann.claim("c", "1")
    before = ann.ok("GET", "/v1/shares")
    broker.kill()
    assert ann.ask("GET", "/v1/shares")[0] == 0
    assert broker.socket.exists(), "that nobody listens is no reason to do without a broker"
    broker.start()
    assert ann.ok("GET", "/v1/shares") == before
    assert ann.ok("DELETE", "/v1/shares/a") == {"released": True}
    assert bob.kernels() == {"b": "held"}, "the order of the queue is kept"
    assert ann.kernels() == {"c": "waiting"}


async def test_what_ends_while_the_broker_is_away_holds_nothing_when_it_is_back(
    broker: RunningBroker, ann: User, bob: User
) -> None:
    ann.claim("a", "1")
    bob.claim("b", "1")
    broker.kill(signal.SIGTERM)
    ann.kill()
    broker.start()
    assert bob.kernels() == {"b": "held"}


def test_what_earlier_boots_left_is_removed(broker: RunningBroker) -> None:
    old = broker.folder / "shares-of-another-boot.db"
    old.write_text("")
    broker.kill()
    broker.start()
    assert not old.exists()
    assert broker.ledger.exists()


def test_a_second_broker_does_not_begin(broker: RunningBroker) -> None:
    second = RunningBroker(broker.folder.parent)
    with pytest.raises(AssertionError, match=r"A broker runs on .* already"):
        _begin(second)


def _begin(broker: RunningBroker) -> None:
    done = subprocess.run(broker.command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("owner", "belongs to somebody else, or others may write it"),
        ("mode", "belongs to somebody else, or others may write it"),
        ("text", "cannot be read: NameError"),
        ("gone", "There is no file"),
        ("folder", "belongs to somebody else; remove it"),
        ("common folder", "is open to others and has other things in it, such as data"),
        ("link", "There is no file"),
        ("nan", "cannot be used: LocalBroker.patience is a number of seconds, not nan. Correct"),
        ("inf", "cannot be used: The value of the 'patience' trait"),
        ("c.Broker.limts = []", "c.Broker.limts in"),
        ("c.Broker.limts = []", "Write c.Broker.limits, or take it out."),
        ("c.Brokr.limits = []", "Write c.Broker.limits, or take it out."),
        ("c.SizePolicy.largest = '1/2'", "is no setting of this broker, and would change nothing."),
        ("c.KubernetesEngine.namespace = 'gpus'", "is no setting of this broker"),
    ],
)
def test_a_broker_that_cannot_begin_says_why_in_a_line(
    common: Path, damage: str, line: str
) -> None:
    broker = RunningBroker(common)
    config = common / "broker_config.py"
    if damage == "owner":
        os.chown(config, BOB, BOB)
    elif damage == "mode":
        config.chmod(0o666)
    elif damage == "text":
        config.write_text("nonsense")
    elif damage == "gone":
        config.unlink()
    elif damage == "link":
        config.rename(common / "elsewhere.py")
        config.symlink_to(common / "nowhere.py")
    elif damage.startswith("c."):
        config.write_text(damage)
    elif damage in ("nan", "inf"):
        config.write_text(f"c.Broker.patience = float({damage!r})")
    elif damage == "common folder":
        broker.folder.mkdir()
        (broker.folder / "data").touch()
        broker.folder.chmod(0o755)
    else:
        broker.folder.mkdir()
        os.chown(broker.folder, BOB, BOB)
    with pytest.raises(AssertionError) as caught:
        _begin(broker)
    text = str(caught.value).partition("\nassert")[0]
    assert text.startswith("gpu-share: ")
    assert line in text
    assert len(text.strip().splitlines()) == 1
    if damage == "common folder":
        assert broker.folder.stat().st_mode & 0o777 == 0o755, "others reach it still"


def test_two_brokers_do_not_have_one_folder(broker: RunningBroker) -> None:
    """As for a try on simulated GPUs beside the one that everybody has."""
    second = RunningBroker(broker.folder.parent)
    second.socket = broker.folder.parent / "other" / "broker.sock"
    with pytest.raises(AssertionError, match=r"Another broker has the folder .*state"):
        _begin(second)
    broker.kill()
    broker.start()


def test_a_configuration_may_be_a_link_to_a_file_of_another_name(common: Path) -> None:
    broker = RunningBroker(common, "c.Broker.claims_per_user = 1", "load_subconfig('more.py')")
    (common / "managed").mkdir(mode=0o755)
    (common / "managed" / "more.py").write_text("c.Broker.patience = 5")
    (common / "broker_config.py").rename(common / "managed" / "broker.17.py")
    (common / "broker_config.py").symlink_to(common / "managed" / "broker.17.py")
    broker.start()
    try:
        with user(ANN, broker.socket) as ann:
            ann.claim("a", "1/4")
            assert ann.ask("PUT", "/v1/shares/b", {"size": "1/4"})[0] == 409
    finally:
        broker.kill()


async def test_the_broker_goes_on_looking_whatever_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = daemon.LocalBroker(
        folder=str(tmp_path / "state"), socket=str(tmp_path / "s.sock"), simulate="1xA100-80GB"
    )
    looked = {"sweep": 0, "gpus": 0}

    def failing(name: str) -> Callable[[], Awaitable[None]]:
        async def look() -> None:
            looked[name] += 1
            raise ZeroDivisionError

        return look

    await broker.start()
    try:
        monkeypatch.setattr(daemon, "_SWEEP_INTERVAL", 0.01)
        monkeypatch.setattr(_machine, "_INTERVAL", 0.01)
        monkeypatch.setattr(broker.store, "sweep", failing("sweep"))
        monkeypatch.setattr(broker._machine, "gpus", failing("gpus"))
        await eventually(lambda: min(looked.values()) > 2, "both go on")
        assert "could not be looked for; it is tried again" in caplog.text
    finally:
        await broker.close()
