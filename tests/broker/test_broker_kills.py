"""Broker, servers and kernels are killed at random under 20 users."""

from __future__ import annotations

import os
import random
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broker_users import RunningBroker, User, user
from rounds import ROUNDS, SEED
from waiting import eventually

from jupyter_gpu_share.broker.client import BrokerClient

_USERS = 20
_KILLS = max(30, 10 * ROUNDS)


@dataclass
class _Kernel:
    """A claim: its server and its process, while they live."""

    server: User | None
    process: int | None = None


@pytest.mark.fault
async def test_nothing_is_lost_leaked_or_doubled_over_kills(common: Path) -> None:
    """After each kill exactly the living have claims, and no GPU holds more than it has."""
    chance = random.Random(SEED)
    running = RunningBroker(common, simulate="4xA100-80GB")
    running.start()
    kernels: dict[tuple[int, str], _Kernel] = {}
    try:
        with ExitStack() as stack:
            servers = [stack.enter_context(user(65600 + n, running.socket)) for n in range(_USERS)]
            for kill in range(_KILLS):
                for number in range(4):
                    _use(chance, chance.choice(servers), f"k{kill}-{number}", kernels)
                what = chance.choice(["broker", "server", "kernel"])
                processes = [key for key, each in kernels.items() if each.process]
                if what == "broker":
                    running.kill()
                elif what == "server":
                    place = chance.randrange(_USERS)
                    old = servers[place]
                    old.kill()
                    _end_of_server(old, kernels)
                    servers[place] = stack.enter_context(user(old.uid, running.socket))
                elif processes:
                    _end_of_kernel(chance.choice(processes), kernels)
                if what == "broker":
                    running.start()
                await _all_is_well(running, kernels)
    finally:
        running.kill()
        for each in kernels.values():
            if each.process:
                with suppress(ProcessLookupError):
                    os.kill(each.process, signal.SIGKILL)


def _use(
    chance: random.Random, server: User, name: str, kernels: dict[tuple[int, str], _Kernel]
) -> None:
    """A kernel starts, or one of the server's goes."""
    own = [key for key, each in kernels.items() if each.server is server]
    if own and chance.random() < 0.5:
        key = chance.choice(own)
        assert server.ok("DELETE", f"/v1/shares/{key[1]}") == {"released": True}
        process = kernels.pop(key).process
        if process:
            os.kill(process, signal.SIGKILL)
        return
    row = server.claim(name, chance.choice(["1/8", "1/4", "1/2", "1", "2x1"]))
    kernels[server.uid, name] = kernel = _Kernel(server)
    if row["state"] == "held" and chance.random() < 0.7:
        kernel.process = int(server.ok("child"))
        server.ok("PATCH", f"/v1/shares/{name}", {"kernel_pid": kernel.process})


def _end_of_server(server: User, kernels: dict[tuple[int, str], _Kernel]) -> None:
    """Its kernels that run hold their shares; the others have none."""
    for key in [key for key, each in kernels.items() if each.server is server]:
        if kernels[key].process is None:
            del kernels[key]
        else:
            kernels[key].server = None


def _end_of_kernel(key: tuple[int, str], kernels: dict[tuple[int, str], _Kernel]) -> None:
    """Its server holds the share still, while it lives."""
    process = kernels[key].process
    assert process is not None
    os.kill(process, signal.SIGKILL)
    kernels[key].process = None
    if kernels[key].server is None:
        del kernels[key]


async def _all_is_well(running: RunningBroker, kernels: dict[tuple[int, str], _Kernel]) -> None:
    root = BrokerClient(running.socket)

    def exactly() -> bool:
        rows: list[dict[str, Any]] = root.ask("GET", "/v1/admin/shares")
        names = [(row["info"]["uid"], row["kernel_id"]) for row in rows]
        assert len(names) == len(set(names))
        held: dict[str, int] = {}
        for row in rows:
            assert (row["state"] == "held") is bool(row["pieces"])
            for piece in row["pieces"]:
                held[piece["uuid"]] = held.get(piece["uuid"], 0) + piece["memory_bytes"]
        for gpu in root.ask("GET", "/v1/machine")["gpus"]:
            assert held.get(gpu["uuid"], 0) <= gpu["memory_bytes"]
        return set(names) == kernels.keys()

    try:
        await eventually(exactly, "exactly the living have claims")
    finally:
        root.close()
