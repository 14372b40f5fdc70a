"""A user's server ends under KubeSpawner's one second: shares are free, kept work is there."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from cluster.fixtures import CLUSTER_MARKS
from hub_of_cluster import HubOfCluster
from servers import until

pytestmark = CLUSTER_MARKS

#: Seconds after which nothing is held for a server that was stopped.
SOON = 30.0
#: A cell that ends when it is interrupted.
SLEEP = "import time; print('begun', flush=True); time.sleep(3600)"
#: A cell that does not.
BUSY = """
import threading, time
print("begun", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def killed(hub: HubOfCluster) -> None:
    """The server's pod is gone without a word, as with its node."""
    name = hub.pod_of("dave")["metadata"]["name"]
    path = f"/api/v1/namespaces/{hub.servers}/pods/{name}?gracePeriodSeconds=0"
    assert hub.cluster.api.raw("DELETE", path)[0] == 200


def stopped(hub: HubOfCluster) -> None:
    """As on the Hub's page, and by the idle culler."""
    hub.ask("DELETE", "/users/dave/server")


@pytest.mark.parametrize("end", [stopped, killed])
def test_shares_are_back_and_kept_work_is_there(
    hub: HubOfCluster, end: Callable[[HubOfCluster], None]
) -> None:
    dave = hub.server("dave")
    path = f"kept-{end.__name__}.ipynb"
    kept = dave.open_notebook(path)
    assert dave.run_cell(kept, "x = [42]; again = x; g = (n for n in range(3)); print(x)") == "[42]"
    dave.ok(f"gpu-share/allocations/{kept}/release", "POST", {})
    dave.wait_for(kept, "released")
    idle, works, busy = (
        dave.open_notebook(f"{name}-{end.__name__}.ipynb") for name in ("idle", "works", "busy")
    )
    assert dave.run_cell(idle, "y = [1]; h = (n for n in range(3)); print(y)") == "[1]"
    assert dave.run_cell(works, "z = [7]; print(z)") == "[7]"
    run_and_leave(hub, works, SLEEP)
    run_and_leave(hub, busy, BUSY)
    assert len(shares(hub)) == 3
    began = time.monotonic()
    end(hub)
    until(lambda: not shares(hub), "the shares are back", SOON)
    assert time.monotonic() - began < SOON
    there = {kept, idle, works}
    until(lambda: pods(hub) == there, f"what can be kept is there alone: {pods(hub)}", SOON)
    until(lambda: hub.stopped("dave"), "the Hub has seen the end of the server", 90)

    dave = hub.server("dave")
    until(lambda: there <= set(dave.kernels()), "the kernels are taken over")
    assert dave.notebooks()[path] == kept
    assert dave.run_cell(kept, "print(again is x, x, next(g))") == "True [42] 0"
    # They had their shares, and a cell ran: the broker had them leave their GPU.
    assert dave.run_cell(idle, "print(y, next(h))") == "[1] 0"
    assert dave.run_cell(works, "print(z)") == "[7]"
    until(lambda: len(shares(hub)) == 3, "they hold their shares again")
    # What was lost is told where it is missed.
    anew = dave.open_notebook(f"busy-{end.__name__}.ipynb")
    assert anew != busy
    told = dave.run_cell(anew, "print('there')")
    assert told.startswith("Its server stopped while the kernel had its share"), told
    assert told.splitlines()[1:] == ["there"], told


@pytest.mark.parametrize(("style", "times"), [("lease", 2), ("pod", 1)])
def test_a_crash_is_no_stop(hub: HubOfCluster, style: str, times: int) -> None:
    """Kubernetes starts the server again; the second time after a while."""
    hub.kill_broker()
    hub.start_broker(f"c.KubernetesEngine.style = {style!r}")
    dave = hub.server("dave")
    path = f"crash-{style}.ipynb"
    kernel, other = dave.open_notebook(path), dave.start_kernel("1/8")
    assert dave.run_cell(kernel, "x = [42]; g = (n for n in range(3)); print(x)") == "[42]"
    assert dave.run_cell(other, "y = 1; print(y)") == "1"
    before = uids(hub)
    for _ in range(times):
        hub.crash("dave")

    def back() -> bool:
        assert uids(hub) == before, "nothing of it was taken or given back"
        return {kernel, other} <= set(dave.kernels())

    until(back, "the kernels are taken over", 120)
    assert dave.notebooks()[path] == kernel
    assert dave.run_cell(kernel, "print(x, next(g))") == "[42] 0"
    assert dave.run_cell(other, "print(y)") == "1"
    assert dave.wait_for(kernel, "active")["share"] is not None
    assert uids(hub) == before


def test_what_cannot_leave_its_gpu_ends_with_a_stop_and_it_is_said(hub: HubOfCluster) -> None:
    """In style ``pod`` the share is the pod's own."""
    hub.kill_broker()
    hub.start_broker("c.KubernetesEngine.style = 'pod'")
    dave = hub.server("dave")
    kernel = dave.open_notebook("whole.ipynb")
    assert dave.run_cell(kernel, "x = 42; print(x)") == "42"
    began = time.monotonic()
    stopped(hub)
    until(lambda: not hub.left(), f"nothing is left: {hub.left()}", SOON)
    assert time.monotonic() - began < SOON
    until(lambda: hub.stopped("dave"), "the Hub has seen the end of the server", 90)
    dave = hub.server("dave")
    told = dave.run_cell(dave.open_notebook("whole.ipynb"), "print('there')")
    assert told.startswith("Its server stopped while the kernel had its share"), told
    assert told.splitlines()[1:] == ["there"], told


def test_what_is_kept_is_not_kept_for_ever(hub: HubOfCluster) -> None:
    hub.kill_broker()
    hub.start_broker("c.Broker.kept_after_stop = 20")
    dave = hub.server("dave")
    kernel = dave.open_notebook("late.ipynb")
    assert dave.run_cell(kernel, "x = 42; print(x)") == "42"
    stopped(hub)
    until(lambda: not shares(hub), "the share is back", SOON)
    assert pods(hub) == {kernel}
    until(lambda: not hub.left(), f"nothing is left: {hub.left()}", 2 * SOON)
    until(lambda: hub.stopped("dave"), "the Hub has seen the end of the server", 90)
    dave = hub.server("dave")
    told = dave.run_cell(dave.open_notebook("late.ipynb"), "print('there')")
    assert told.startswith("Its server did not come back"), told


def uids(hub: HubOfCluster) -> set[str]:
    """All pods and claims that kernels have."""
    found = [*hub.objects(), *hub.objects("claims")]
    return {each["metadata"]["uid"] for each in found}


def shares(hub: HubOfCluster) -> set[str]:
    """The claims that hold shares; in style ``lease`` a kernel's pod has one that holds nothing."""
    names = {claim["metadata"]["name"] for claim in hub.objects("claims")}
    return {name for name in names if "-lease-" in name}


def pods(hub: HubOfCluster) -> set[str]:
    """The kernels of the user that have a pod."""
    return {
        pod["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"]
        for pod in hub.kernel_pods("dave")
    }


def run_and_leave(hub: HubOfCluster, kernel_id: str, code: str) -> None:
    """Have a cell run, and wait until it does."""
    import json
    from uuid import uuid4

    import websocket

    dave = hub.server("dave")
    url = dave.url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
    socket = websocket.create_connection(
        url, header=[f"Authorization: token {dave.token}"], timeout=60
    )
    try:
        header = {"msg_id": uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
        header |= {"session": uuid4().hex, "username": "", "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content |= {"user_expressions": {}, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        socket.send(json.dumps({**message, "channel": "shell"}))

        def begun() -> bool:
            answer = json.loads(socket.recv())
            return answer["msg_type"] == "stream" and "begun" in answer["content"]["text"]

        until(begun, "the cell runs", 60)
    finally:
        socket.close()
