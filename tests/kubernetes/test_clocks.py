"""Real servers of one name on hosts whose clocks are 90 s apart: a kernel is one server's."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import STYLES, TURNS, Log
from hosts import Host, shifted_clock
from servers import Server, until
from waiting import PATIENCE

pytestmark = [*CLUSTER_MARKS, pytest.mark.fault]

Start = Callable[..., Server]
Objects = Callable[[str], list[dict[str, Any]]]

APART = 90
#: Of the servers' settings, and what follows of it: seconds that a server's Lease is valid.
SWEEP_INTERVAL, VALID = 4.0, 6.0
#: Renewals, one each 2 s, within which the pod of a dead server that waits would be swept.
RENEWALS = 8
INSTANCE = "gpu-share.jupyter.org/instance"


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that shifts a process's wall clock."""
    return shifted_clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def serve(start: Start, clock: Path) -> Callable[..., Server]:
    """Starts a server of the same user on a host of its own."""

    def run(name: str, apart: int, style: str) -> Server:
        settings = {"sweep_interval": SWEEP_INTERVAL, "GpuShareProvisioner.queue_patience": 0.5}
        return start(name, Host(name, apart, clock).prefix, style=style, **settings)

    return run


def leases(objects: Objects) -> dict[str, dict[str, Any]]:
    """The Leases of servers, by host."""
    notes = "gpu-share.jupyter.org/process"
    return {
        json.loads(each["metadata"]["annotations"][notes])["host"]: each["spec"]
        for each in objects("leases")
    }


def owners(objects: Objects) -> dict[str, str]:
    """Whose each pod is that was not deleted, by its kernel's id."""
    return {
        notes["gpu-share.jupyter.org/kernel-id"]: notes[INSTANCE]
        for pod in objects("pods")
        if not pod["metadata"].get("deletionTimestamp")
        and pod["metadata"]["labels"]["gpu-share.jupyter.org/part"] == "kernel"
        for notes in [pod["metadata"]["annotations"]]
    }


def renewals(objects: Objects, number: int, *hosts: str) -> None:
    """Wait until each of the hosts has renewed its Lease so often."""
    seen: dict[str, set[str]] = {host: set() for host in hosts}

    def enough() -> bool:
        found = leases(objects)
        for host, times in seen.items():
            if host in found:
                times.add(found[host]["renewTime"])
        return all(len(times) > number for times in seen.values())

    until(enough, f"{hosts} have renewed their Leases {number} times", 8 * PATIENCE)


def end(server: Server, *kernels: str) -> None:
    for kernel_id in kernels:
        server.ok(f"api/kernels/{kernel_id}", "DELETE")


def nothing_left(objects: Objects, log: Log) -> None:
    begun = time.monotonic()
    for what in ("pods", "secrets", "claims"):
        until(lambda what=what: not objects(what), f"no {what} are left")
    log.empty_after = round(time.monotonic() - begun, 2)
    log.write()


@pytest.mark.parametrize("turn", TURNS)
def test_servers_whose_clocks_are_apart_leave_each_other_their_kernels(
    turn: int, serve: Callable[..., Server], objects: Objects
) -> None:
    """One that runs, and one that waits for its place."""
    style = STYLES[turn % 2]
    log = Log("two servers of one name, clocks 90 s apart", turn, style)
    ahead = "first" if turn % 4 < 2 else "second"
    first = serve("first", APART if ahead == "first" else 0, style)
    mine = first.start_kernel("1")
    assert first.run_cell(mine, "x = 1; print(x)") == "1"
    second = serve("second", APART if ahead == "second" else 0, style)
    theirs = second.start_kernel("1")
    assert second.run_cell(theirs, "x = 2; print(x)") == "2"
    # Both GPUs are taken.
    waits = [first.start_kernel("1/4"), second.start_kernel("1/4")]
    before = owners(objects)
    assert len(before) == 4
    renewals(objects, RENEWALS, "first", "second")
    written = [datetime.fromisoformat(leases(objects)[h]["renewTime"]) for h in ("first", "second")]
    assert abs((written[0] - written[1]).total_seconds()) > APART / 2, "the clocks are apart"
    assert owners(objects) == before
    assert len(set(before.values())) == 2
    for server, own, value in ((first, [mine, waits[0]], "1"), (second, [theirs, waits[1]], "2")):
        assert sorted(server.kernels()) == sorted(own)
        assert server.run_cell(own[0], "print(x)") == value
    end(first, waits[0], mine)
    end(second, waits[1], theirs)
    nothing_left(objects, log)


@pytest.mark.parametrize("turn", TURNS)
def test_who_takes_a_kernel_over_waits_a_whole_lease_by_its_own_clock(
    turn: int, serve: Callable[..., Server], objects: Objects
) -> None:
    """Whether its wall clock is ahead or behind; and of two that try, one has it."""
    style = STYLES[turn % 2]
    log = Log("server kill -9, two others 90 s before and after it", turn, style)
    log.silent = "nothing: one of the others goes on with the kernel"
    server = serve("first", 0, style)
    kernel_id = server.start_kernel("1/4")
    assert server.run_cell(kernel_id, "x = [1]; y = x; print('set')") == "set"
    (owner,) = owners(objects).values()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    # Nobody can have looked before that.
    begun = time.monotonic()
    others = [serve("ahead", APART, style), serve("behind", -APART, style)]

    def taken() -> bool:
        return owners(objects) != {kernel_id: owner}

    until(taken, "the kernel is taken over")
    assert time.monotonic() - begun > VALID
    until(lambda: any(other.kernels() for other in others), "somebody has the kernel")
    # Each looks several times more.
    renewals(objects, RENEWALS, "ahead", "behind")
    (has,) = [other for other in others if other.kernels() == [kernel_id]]
    assert [other.kernels() for other in others if other is not has] == [[]]
    host = ("ahead", "behind")[others.index(has)]
    assert owners(objects) == {kernel_id: leases(objects)[host]["holderIdentity"]}
    assert has.run_cell(kernel_id, "print(x, y is x)") == "[1] True"
    end(has, kernel_id)
    nothing_left(objects, log)
