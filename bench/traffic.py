"""What the relay costs on the way between a client and its kernel."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from jupyter_client.blocking import BlockingKernelClient

from .kernels import OURS, PATIENCE, PEER, isolate, kernel
from .rows import Row, times

ROUND_TRIPS, BLOCKS = 100, 10
PRINTS = 3000
MIB = 64
REPEATS = 15

_PRINT = f"for n in range({PRINTS}):\n    print(n, flush=True)"
_BUFFER = f"""
from comm import create_comm
comm = create_comm(target_name="bench", data={{}}, buffers=[bytes({MIB} * 2**20)])
comm.close()
"""


def rows() -> list[Row]:
    """Median round trip, 3,000 flushed prints, and a buffer of 64 MiB."""
    isolate()
    found = []
    with kernel(OURS) as ours, kernel(PEER) as peer:
        both = {OURS: ours, PEER: peer}
        found.append(_compare("round trip of kernel_info", "ms", _round_trips(both), 1000, 1.2))
        for name, code in ((f"{PRINTS} flushed prints", _PRINT), (f"{MIB} MiB buffer", _BUFFER)):
            taken: dict[str, list[float]] = {OURS: [], PEER: []}
            for client in both.values():
                _run(client, code)
            for _ in range(REPEATS):
                for provisioner, client in both.items():
                    taken[provisioner].append(_run(client, code))
            found.append(_compare(name, "s", taken, 1, 1.1))
    return found


def _compare(
    name: str, unit: str, taken: dict[str, list[float]], scale: float, factor: float
) -> Row:
    ours, peer = median(taken[OURS]) * scale, median(taken[PEER]) * scale
    limit, goal = times(factor, peer)
    return Row(name, unit, ours, peer, limit, goal)


def _round_trips(both: dict[str, BlockingKernelClient]) -> dict[str, list[float]]:
    """In blocks by turns, so that what disturbs the machine disturbs both."""
    taken: dict[str, list[float]] = {OURS: [], PEER: []}
    for block in range(BLOCKS + 1):
        for provisioner, client in both.items():
            for _ in range(ROUND_TRIPS):
                begun = perf_counter()
                _reply(client, client.kernel_info())
                if block:  # the first one warms up
                    taken[provisioner].append(perf_counter() - begun)
    return taken


def _run(client: BlockingKernelClient, code: str) -> float:
    """Seconds from sending a cell to its last output."""
    begun = perf_counter()
    sent = client.execute(code)
    streamed = 0
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != sent:
            continue
        kind, content = message["msg_type"], message["content"]
        assert kind != "error", content
        if kind == "stream":
            streamed += content["text"].count("\n")
        elif kind == "status" and content["execution_state"] == "idle":
            break
    taken = perf_counter() - begun
    _reply(client, sent)
    assert streamed in (0, PRINTS), f"{streamed} of {PRINTS} lines arrived"
    return taken


def _reply(client: BlockingKernelClient, sent: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = client.get_shell_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") == sent:
            return message
