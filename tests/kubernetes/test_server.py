"""A Jupyter server whose kernels are pods: it is killed, starts again, and finds them."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from faults import SEED, STYLES, TURNS, Log
from servers import Server, until
from waiting import PATIENCE

pytestmark = CLUSTER_MARKS

Start = Callable[..., Server]


def session(server: Server, path: str) -> dict[str, Any]:
    """Open a notebook as JupyterLab does."""
    (server.folder / path).write_text(
        '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    found: dict[str, Any] = server.ok("api/sessions", "POST", body)
    return found


def test_a_server_that_was_killed_finds_its_kernels_with_their_variables(start: Start) -> None:
    server = start()
    opened = session(server, "work.ipynb")
    kernel_id = opened["kernel"]["id"]
    assert server.run_cell(kernel_id, "x = [1, 2]; y = x; print('set')") == "set"
    before = server.ok(f"gpu-share/allocations/{kernel_id}")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)

    again = start()
    until(lambda: again.kernels() == [kernel_id], "the kernel is listed")
    assert again.run_cell(kernel_id, "print(x, y is x)") == "[1, 2] True"
    after = again.ok(f"gpu-share/allocations/{kernel_id}")
    assert after["share"] == before["share"]
    assert after["path"] == "work.ipynb"
    # Opening the notebook connects to the kernel that runs.
    until(lambda: again.ok("api/sessions"), "the session is there")
    assert session(again, "work.ipynb")["kernel"]["id"] == kernel_id
    # It can be killed once more: the kernel is the second server's now.
    os.kill(again.process.pid, signal.SIGKILL)
    again.process.wait(PATIENCE)
    third = start()
    until(lambda: third.kernels(), "the kernel is listed once more")
    assert third.run_cell(kernel_id, "print(x, y is x)") == "[1, 2] True"
    third.ok(f"api/kernels/{kernel_id}", "DELETE")


def test_a_server_that_shall_not_adopt_ends_the_kernels_that_it_finds(
    start: Start, cluster: Any, namespace: str
) -> None:
    server = start()
    server.start_kernel("1/4")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    again = start(adopt=False)
    until(
        lambda: not cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"],
        "the pod is gone",
    )
    assert again.ok("api/kernels") == []


def test_two_servers_of_one_name_do_not_take_each_others_kernels(
    start: Start, cluster: Any, namespace: str
) -> None:
    server = start()
    kernel_id = server.start_kernel("1/4")
    assert server.run_cell(kernel_id, "x = 1; print(x)") == "1"
    other = start()
    until(lambda: other.ok("gpu-share/status"), "the other server is up")
    assert other.ok("api/kernels") == []
    assert server.run_cell(kernel_id, "print(x)") == "1"


def test_a_pod_that_no_server_renews_ends_and_is_swept(
    start: Start, cluster: Any, namespace: str
) -> None:
    server = start(watchdog=6.0)
    server.start_kernel("1/4")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    until(
        lambda: all(
            pod["status"]["phase"] in ("Succeeded", "Failed")
            for pod in cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        ),
        "the agent has ended the pod",
    )
    start()
    for what in (
        "/api/v1/namespaces/{}/pods",
        "/api/v1/namespaces/{}/secrets",
        "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims",
    ):
        until(lambda what=what: not cluster.api.get(what.format(namespace))["items"], what)


@pytest.mark.fault
@pytest.mark.parametrize("turn", TURNS)
def test_a_server_that_is_killed_leaves_nothing_when_it_is_back(
    turn: int, start: Start, cluster: Any, namespace: str
) -> None:
    log = Log("server kill -9", turn, STYLES[turn % 2])
    log.silent = "nobody is there; a server that starts again, and may not adopt, ends all of it"
    rng = random.Random(f"{SEED}-{log.fault}-{turn}")
    server = start(style=log.style)
    server.ok("gpu-share/status")
    launch = threading.Thread(target=_start_quietly, args=(server,))
    launch.start()
    log.instant = round(rng.uniform(0, 1.5), 3)
    time.sleep(log.instant)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    launch.join(PATIENCE)
    assert not launch.is_alive()
    begun = time.monotonic()
    again = start(style=log.style, adopt=False)
    for what in ("pods", "secrets", "resourceclaims"):
        group = "apis/resource.k8s.io/v1" if what == "resourceclaims" else "api/v1"
        path = f"/{group}/namespaces/{namespace}/{what}"
        until(lambda path=path: not cluster.api.get(path)["items"], f"no {what} are left")
    log.empty_after = round(time.monotonic() - begun, 2)
    assert again.ok("api/kernels") == []
    # The sign of life of the one that was killed goes too.
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    if turn == 0:
        until(lambda: len(cluster.api.get(leases)["items"]) == 1, "one server's Lease is left")
    log.write()


def _start_quietly(server: Server) -> None:
    """Start a kernel on a server that may be killed meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        server.start_kernel("1/4")
