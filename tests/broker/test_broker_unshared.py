"""Processes that use a GPU without a share: who sees them, pays for them, and ends them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from broker_users import ANN, BOB, RunningBroker, user
from driver.fake_driver import GIB, UUIDS, FakeDriver
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.broker._ends import kill
from jupyter_gpu_share.broker.client import BROKER, BrokerClient
from jupyter_gpu_share.broker.identity import Accounts
from jupyter_gpu_share.broker.unshared import LEAST_GRACE, Unshared
from jupyter_gpu_share.cli import main
from jupyter_gpu_share.engines._processes import Holder
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._outsiders import Outsider

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
GRACE = timedelta(seconds=60)
WHOLE = Gpu("GPU-1", "A100", 0, 80 * GIB)
INSTANCE = Gpu("MIG-1", "A100", 1, 10 * GIB, profile="1g.10gb", parent="GPU-2")
PART = Gpu("MIG-2", "A100", 1, 20 * GIB, profile="1c.2g.20gb", parent="GPU-2")

# -- the rules -----------------------------------------------------------------------------------


def outsider(pid: int = 7, uid: int = ANN, draws: bool = False, **used: int | None) -> Outsider:
    """By default one with half of the whole GPU."""
    memory = used or {"GPU_1": 40 * GIB}
    by_uuid = {name.replace("_", "-"): amount for name, amount in memory.items()}
    return Outsider(Holder(pid, "1"), uid, "python\x1b[2J", by_uuid, draws)


class Watched:
    """The rules at a time that the test says."""

    def __init__(self, grace: timedelta | None = GRACE) -> None:
        self.now = NOON
        self.sent: list[tuple[int, int]] = []
        self.rules = Unshared(
            Accounts(),
            grace,
            clock=lambda: self.now,
            end=lambda process, number: self.sent.append((process.pid, number)),
        )

    def look(self, *found: Outsider, after: float = 0.0) -> list[tuple[int, int]]:
        """The signals that are sent at a look so many seconds after the one before."""
        self.now += timedelta(seconds=after)
        self.sent.clear()
        self.rules.see(found)
        return list(self.sent)


def test_who_has_no_share_is_ended_when_the_grace_is_over(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    with caplog.at_level(logging.WARNING):
        assert watched.look(outsider()) == []
        (line,) = caplog.messages
    assert line == (
        f"Process 7 (python [2J) of uid {ANN}, which uses 40 GiB of GPUs, has no share; it is "
        "ended in 60 s"
    )
    assert watched.look(outsider(), after=59) == []
    assert watched.look(outsider(), after=1) == [(7, signal.SIGTERM)]
    assert watched.look(outsider(), after=5) == [], "it has a moment to end by itself"
    assert watched.look(outsider(), after=5) == [(7, signal.SIGKILL)]
    assert watched.look() == []
    assert watched.rules.rows() == []


def test_a_number_that_is_another_process_by_now_has_the_whole_grace() -> None:
    watched = Watched()
    watched.look(outsider())
    later = Outsider(Holder(7, "2"), ANN, "python", {"GPU-1": 1}, draws=False)
    assert watched.look(later, after=60) == []


@pytest.mark.parametrize(
    "spared", [outsider(uid=0), outsider(uid=os.geteuid()), outsider(draws=True)]
)
def test_root_and_desktops_are_left_alone(
    spared: Outsider, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    assert watched.look(spared) == watched.look(spared, after=1000) == []
    assert caplog.messages == []
    assert len(watched.rules.rows()) == 1, "they are shown all the same"


def test_by_default_nobody_is_ended() -> None:
    watched = Watched(None)
    watched.look(outsider())
    assert watched.look(outsider(), after=1e6) == []


@pytest.mark.parametrize(
    ("used", "gpus"),
    [
        ({"GPU_1": 40 * GIB}, Fraction(1, 2)),
        ({"GPU_1": None}, Fraction(1)),
        ({"MIG_1": 5 * GIB}, Fraction(1, 14)),
        ({"MIG_1": None, "GPU_1": 20 * GIB}, Fraction(1, 7) + Fraction(1, 4)),
        ({"MIG_2": None}, Fraction(2, 7)),
        ({"GPU_9": 40 * GIB}, Fraction(0)),
    ],
)
def test_what_is_charged(used: dict[str, int | None], gpus: Fraction) -> None:
    watched = Watched()
    watched.look(outsider(**used))
    (held,) = watched.rules.charges([WHOLE, INSTANCE, PART]).values()
    assert (held.user, held.gpus, held.idle) == (f"uid {ANN}", gpus, False)


def test_a_process_is_signalled_by_what_it_is_not_by_its_number() -> None:
    with subprocess.Popen(["sleep", "99"]) as process:
        kill(Holder(process.pid, "1"))
        assert process.poll() is None
        kill(Holder.of(process.pid), signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


# -- a broker on GPUs that others use, too -------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FakeDriver]:
    made = FakeDriver(tmp_path / "driver", 2)
    yield made
    made.close()


Start = Callable[..., RunningBroker]


@pytest.fixture
def start(common: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a broker on the GPUs of the driver."""
    with ExitStack() as stack:

        def run(*lines: str) -> RunningBroker:
            running = RunningBroker(common, *lines, simulate="")
            with monkeypatch.context() as patch:
                for name, value in driver.env.items():
                    patch.setenv(name, value)
                patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
                stack.callback(running.kill)
                running.start()
            return running

        yield run


@pytest.fixture
def program(driver: FakeDriver) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Runs a program of a user that uses a GPU."""
    with ExitStack() as stack:

        def run(uid: int, nbytes: int, gpu: int = 0) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(["sleep", "999"], user=uid)
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.kill)
            driver.pretend(process.pid, nbytes, gpu)
            return process

        yield run


def processes(root: BrokerClient) -> dict[int, Any]:
    return {row["pid"]: row for row in root.ask("GET", "/v1/admin/processes")}


def test_processes_without_a_share_are_shown_counted_and_charged(
    start: Start,
    program: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_bob, of_root = program(BOB, 12 * GIB), program(0, 2 * GIB, 1)
    broker = start("c.Broker.charge_unshared = True")
    root = BrokerClient(broker.socket)
    with user(ANN, broker.socket) as ann:
        found = processes(root)
        assert found.keys() == {of_bob.pid, of_root.pid}
        row = found[of_bob.pid]
        assert (row["user"], row["command"]) == (f"uid {BOB}", "sleep")
        assert row["used_bytes"] == {UUIDS[0]: 12 * GIB}
        assert ann.ask("GET", "/v1/admin/processes")[0] == 403

        assert ann.claim("a", "1/2")["pieces"][0]["uuid"] == UUIDS[1], "the other one has room"
        assert ann.claim("b", "1/2")["state"] == "waiting"

        monkeypatch.setenv(BROKER, str(broker.socket))
        assert main(["list", "--all"]) == 0
        assert f"uid {BOB}" in capsys.readouterr().out.partition("Without a share:")[2]

        def charged() -> float:
            rows = root.ask("GET", "/v1/admin/usage")
            return sum(row["used"] for row in rows if row["name"] == f"uid {BOB}")

        until(lambda: charged() > 0.1, "it goes to the account")
        of_bob.kill()
        of_bob.wait(PATIENCE)
        until(lambda: processes(root).keys() == {of_root.pid}, "its end is seen")
        until(lambda: charged() == charged(), "it costs nothing any more")
    root.close()


def test_processes_without_a_share_are_ended(
    start: Start, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    of_bob, of_root = program(BOB, GIB), program(0, GIB)
    broker = start(f"c.Broker.end_unshared_after = {LEAST_GRACE}")
    until(lambda: of_bob.poll() == -signal.SIGTERM, "it is ended")
    assert of_root.poll() is None, "root's is not"
    assert "has no share; it is ended in 15 s" in broker.log.read_text()


def test_what_a_kernel_starts_has_its_share(
    start: Start, program: Callable[..., subprocess.Popen[bytes]], driver: FakeDriver
) -> None:
    broker = start()
    root = BrokerClient(broker.socket)
    with user(ANN, broker.socket) as ann:
        claim = ann.claim("a", "1/2")
        kernel = ann.ok("child")
        ann.ok("PATCH", "/v1/shares/a", {"kernel_pid": kernel})
        driver.pretend(kernel, GIB)
        marked = subprocess.Popen(
            ["sleep", "999"],
            user=ANN,
            start_new_session=True,
            env={"JUPYTER_GPU_SHARE_CLAIM": claim["token"]},
        )
        try:
            driver.pretend(marked.pid, GIB)
            without = program(BOB, GIB, 1)
            until(lambda: processes(root), "it is looked for")
            assert processes(root).keys() == {without.pid}
        finally:
            marked.kill()
            marked.wait(PATIENCE)
        rows = root.ask("GET", "/v1/admin/usage")
        assert {row["name"] for row in rows} == {f"uid {ANN}"}, "by default nobody is charged"
    root.close()
