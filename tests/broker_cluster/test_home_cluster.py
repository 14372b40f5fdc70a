"""The broker on a real cluster: two users' kernels side by side, and a broker that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from brokers_of_cluster import RunningClusterBroker, cluster_broker, uids, without
from cluster.fixtures import CLUSTER_MARKS
from homes import User
from waiting import eventually

pytestmark = CLUSTER_MARKS

Objects = Callable[[str], list[dict[str, Any]]]
#: What a process that is heard of and one that is not yet do not have in common.
ALIVE = ("held_by_other",)


@pytest.fixture
def objects(cluster: Any, namespace: str) -> Objects:
    """Reads what there is in the namespace, by plural."""
    claims = f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"

    def read(what: str) -> list[dict[str, Any]]:
        path = claims if what == "claims" else f"/api/v1/namespaces/{namespace}/{what}"
        items: list[dict[str, Any]] = cluster.api.get(path)["items"]
        return items

    return read


@pytest.fixture
async def broker(
    cluster: Any, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[RunningClusterBroker]:
    style = getattr(request, "param", "lease")
    async with cluster_broker(tmp_path, cluster.kubeconfig, namespace, style=style) as running:
        yield running


async def ended(user: User, row: dict[str, Any]) -> None:
    path = f"/v1/shares/{row['kernel_id']}?attempt={row['attempt']}"
    await eventually(lambda: _gone(user, path), "the kernel is gone")


async def _gone(user: User, path: str) -> bool:
    return bool((await user.ok("DELETE", path))["gone"])


@pytest.mark.parametrize("broker", ["pod", "lease"], indirect=True)
async def test_two_users_side_by_side_over_a_broker_that_is_killed(
    broker: RunningClusterBroker, objects: Objects
) -> None:
    ann, bob = broker.user("ann", groups=["course"]), broker.user("bob", "lab")
    rows = await asyncio.gather(ann.start("a", "1/4"), bob.start("b", "1/2"))
    for row, user in zip(rows, (ann, bob), strict=True):
        assert row["address"] and row["share"]["devices"], row
        others = await (bob if user is ann else ann).ok("GET", "/v1/shares")
        assert row["kernel_id"] not in {each["kernel_id"] for each in others}
    pods = objects("pods")
    notes = {
        each["metadata"]["annotations"]["hub.jupyter.org/username"]
        + "/"
        + each["metadata"]["annotations"]["hub.jupyter.org/servername"]
        for each in [*pods, *objects("claims")]
    }
    assert notes == {"ann/", "bob/lab"}
    assert not any("JUPYTERHUB" in str(pod) for pod in pods)
    keys = await bob.ok("GET", "/v1/shares/b/connection")
    assert keys["key"] and keys["curve_secretkey"] and keys["ip"] == rows[1]["address"]

    broker.kill()
    broker.start()
    await broker.ready()
    for row, user in zip(rows, (ann, bob), strict=True):
        (after,) = await user.ok("GET", "/v1/shares")
        assert without(after, *ALIVE) == without(row, *ALIVE)
        plan = {**user.plan(row["size"]), "attempt": row["attempt"]}
        assert (await user.ask("PUT", f"/v1/shares/{row['kernel_id']}", plan))[0] == 200
    assert uids(objects("pods")) == uids(pods)

    await asyncio.gather(ended(ann, rows[0]), ended(bob, rows[1]))
    await eventually(lambda: not objects("pods") and not objects("claims"), "nothing is left")
    assert not [each for each in objects("secrets") if each["type"] == "Opaque"]


async def test_what_waits_and_what_has_no_share_goes_on_after_a_restart(
    broker: RunningClusterBroker, objects: Objects
) -> None:
    ann, bob = broker.user("ann"), broker.user("bob")
    capacity = (await ann.ok("GET", "/v1/machine"))["gpus"]
    whole = len([gpu for gpu in capacity if not gpu["profile"]])
    lent = await ann.start("lent", "1/4")
    await ann.ok("POST", "/v1/shares/lent/release", {"attempt": lent["attempt"]})
    held = [await ann.start(f"held-{n}", "1/2") for n in range(2 * whole)]
    waits = await bob.ok("PUT", "/v1/shares/waits", bob.plan("1/2"))
    await bob.until("waits", "waiting")
    before = uids(objects("pods"))

    broker.kill()
    broker.start()
    await broker.ready()
    found = {row["kernel_id"]: row for row in await ann.ok("GET", "/v1/shares")}
    assert found["lent"]["state"] == "released", found["lent"]
    assert {found[row["kernel_id"]]["state"] for row in held} == {"ready"}
    row = await bob.row("waits") or {}
    assert (row["state"], row["attempt"]) == ("waiting", waits["attempt"])
    kernels = {row["name"] for row in [*found.values(), row]}
    after = uids(objects("pods"))
    assert {name: after.get(name) for name in kernels} == {
        name: before.get(name) for name in kernels
    }
    await ended(ann, held[0])
    assert (await bob.until("waits", "ready"))["address"]
    for each in [lent, *held[1:]]:
        await ended(ann, each)


async def test_a_stopped_server_gives_its_shares_back_within_half_a_minute(
    broker: RunningClusterBroker, objects: Objects
) -> None:
    ann = broker.user("ann")
    async with ann.events(instance=True) as heard:
        await anext(heard)
        await ann.start("held", "1/2")
        lent = await ann.start("lent", "1/4")
        await ann.ok("POST", "/v1/shares/lent/release", {"attempt": lent["attempt"]})
    # Its stream has ended, it does not come back, and the Hub says that it was stopped.
    del broker.hub.tokens[ann.token]
    await eventually(
        lambda: {pod["metadata"]["name"] for pod in objects("pods")} == {lent["name"]},
        "all shares are back",
        30.0,
    )
    second = broker.user("ann")
    rows = {row["kernel_id"]: row for row in await second.ok("GET", "/v1/shares")}
    assert rows["held"]["state"] == "ended" and rows["held"]["lost_work"]
    adopt = {"attempt": "0" * 32, "before": ann.instance}
    row = await second.ok("POST", "/v1/shares/lent/adopt", adopt)
    assert row["instance"] == second.instance and row["name"] == lent["name"]
    await second.ok("POST", "/v1/shares/lent/settle", {"attempt": "0" * 32})
    assert (await second.until("lent", "ready"))["share"]["devices"]
    await ended(second, {**row, "kernel_id": "lent"})
