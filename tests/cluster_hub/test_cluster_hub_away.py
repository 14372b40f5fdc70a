"""The Hub or the broker is away: what runs goes on, and what was begun comes to an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from broker_attacks import ASK
from cluster.fixtures import CLUSTER_MARKS
from hub_of_cluster import HubOfCluster
from servers import Server, until
from waiting import PATIENCE

pytestmark = CLUSTER_MARKS

#: Seconds that the Hub's last word counts, in the test in which it is over.
GRACE = 70.0
#: Seconds for which the Hub is not asked again about a token.
FRESH = 20.0


def test_the_hub_is_away(hub: HubOfCluster) -> None:
    """What runs goes on, and can be released and woken; nothing new starts. So it is said."""
    ann = hub.server("ann")
    kernel = ann.start_kernel("1/4")
    assert ann.run_cell(kernel, "x = 42; print(x)") == "42"
    hub.kill_broker()
    hub.start_broker(f"c.Broker.hub_grace = {GRACE}")
    assert ann.run_cell(kernel, "print(x + 1)") == "43"
    terminal = hub.terminal(ann)
    look = f"{ASK}\nprint(json.dumps(ask('GET', '/v1/shares')))"
    until(lambda: terminal.tell(look)[0] == 200, "the broker knows the server")
    hub.kill_hub()
    began = time.monotonic()

    assert ann.run_cell(kernel, "print(x + 2)") == "44"
    ann.ok(f"gpu-share/allocations/{kernel}/release", "POST", {})
    ann.wait_for(kernel, "released")
    assert ann.run_cell(kernel, "print(x + 3)") == "45"
    assert ann.wait_for(kernel, "active")["share"] is not None

    pause(FRESH + 5 - (time.monotonic() - began), lambda: ann.run_cell(kernel, "x + 0;") == "")
    with ThreadPoolExecutor() as threads:
        started = threads.submit(launch, ann)
        until(lambda: "JupyterHub" in words_of(ann, kernel, started), "the start tells of the Hub")
        assert len(hub.kernel_pods()) == 1

        until(lambda: terminal.tell(look)[0] == 503, "the grace is over", 2 * GRACE)
        assert time.monotonic() - began > GRACE / 2
        # The kernel's own traffic never asked the Hub. It is nobody's fault, and nobody's loss.
        pause(25, lambda: ann.run_cell(kernel, "print(x + 4)") == "46")
        hub.start_hub()
        until(lambda: terminal.tell(look)[0] == 200, "the Hub's word is there again")
        assert ann.run_cell(kernel, "print(x + 5)") == "47"
        assert started.result(4 * PATIENCE)[0] == 201
    ann.ok(f"gpu-share/allocations/{kernel}/release", "POST", {})
    ann.wait_for(kernel, "released")
    assert ann.run_cell(kernel, "print(x + 6)") == "48"


def words_of(server: Server, but: str, started: Future[tuple[int, Any]]) -> str:
    """What a start says while it waits, or after it has failed."""
    if started.done():
        return str(started.result()[1])
    rows = server.ok("gpu-share/allocations")
    return "".join(each["reason"] for each in rows if each["kernel_id"] != but)


def pause(seconds: float, holds: Callable[[], bool]) -> None:
    """Something is so all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert holds()


def launch(server: Server) -> tuple[int, Any]:
    return server.fetch("api/kernels", "POST", {"name": "python3"}, patience=7 * PATIENCE)


def test_the_broker_is_started_anew(hub: HubOfCluster) -> None:
    """As ``kubectl rollout restart`` does it: no cell is lost, back in ten seconds."""
    ann = hub.server("ann")
    kernel, away = ann.start_kernel("1/8"), ann.start_kernel("1/8")
    assert ann.run_cell(away, "x = 42; print(x)") == "42"
    ann.ok(f"gpu-share/allocations/{away}/release", "POST", {})
    ann.wait_for(away, "released")
    before = {pod["metadata"]["uid"] for pod in hub.kernel_pods()}
    code = (
        "import time\n"
        "for n in range(60):\n"
        "    print(n, flush=True); time.sleep(0.2)\n"
        "print('whole')"
    )
    with ThreadPoolExecutor() as threads:
        cell = threads.submit(ann.run_cell, kernel, code)
        until(lambda: ann.ok(f"gpu-share/allocations/{kernel}")["state"] == "active", "it runs")
        began = time.monotonic()
        assert hub.broker_program.end() == 0
        hub.start_broker()
        assert time.monotonic() - began < 10
        assert cell.result(4 * PATIENCE).split() == [*map(str, range(60)), "whole"]
    assert ann.run_cell(away, "print(x)") == "42"
    assert {pod["metadata"]["uid"] for pod in hub.kernel_pods()} == before
    assert {ann.wait_for(each, "active")["state"] for each in (kernel, away)} == {"active"}
