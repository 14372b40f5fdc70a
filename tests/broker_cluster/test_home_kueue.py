"""Users whose kernels the broker sends to a real Kueue, and one whose kernels it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers_of_cluster import RunningClusterBroker, cluster_broker
from cluster.fixtures import CLUSTER_MARKS
from cluster.queues import local_queue, time_slices
from homes import User
from waiting import eventually

pytestmark = CLUSTER_MARKS

QUEUE, LONG = "courses", 120.0
RULES = [{"group": "course-*", "queue": QUEUE}, {"user": "fay", "queue": "of-{user}"}]


@pytest.fixture
def kueue(cluster: Any, namespace: str) -> Iterator[None]:
    """Kueue, time slices, and a queue with quota for one of them."""
    with cluster.kueue(), time_slices(cluster), local_queue(cluster, namespace, QUEUE):
        yield


@pytest.fixture
async def broker(
    cluster: Any, namespace: str, kueue: None, tmp_path: Path
) -> AsyncIterator[RunningClusterBroker]:
    more = f"c.Broker.queues = {RULES!r}"
    async with cluster_broker(
        tmp_path, cluster.kubeconfig, namespace, more, backend="device-plugin", style="pod"
    ) as running:
        yield running


async def reason(user: User, kernel_id: str) -> str:
    row = await user.row(kernel_id)
    assert row is not None
    return str(row["reason"])


async def test_a_users_kernels_wait_in_the_queue_that_the_broker_names(
    cluster: Any, namespace: str, broker: RunningClusterBroker
) -> None:
    pods = f"/api/v1/namespaces/{namespace}/pods"

    def queues() -> dict[str, str | None]:
        name = "kueue.x-k8s.io/queue-name"
        return {
            pod["metadata"]["annotations"]["hub.jupyter.org/username"]: pod["metadata"][
                "labels"
            ].get(name)
            for pod in cluster.api.get(pods)["items"]
        }

    ann, bob = (broker.user(each, groups=["course-1", "all"]) for each in ("ann", "bob"))
    eve, fay = broker.user("eve", groups=["all"]), broker.user("fay")
    first = await ann.start("first", "1/4")
    await bob.ok("PUT", "/v1/shares/second", bob.plan("1/4"))
    words = f"queue {QUEUE}: the quota is used up, it lacks 1 of nvidia.com/gpu."

    async def told() -> bool:
        return words in await reason(bob, "second")

    await eventually(told, "the quota is told", LONG)
    # Whoever has no queue is not Kueue's, and a queue that is not there is told.
    await eve.start("third", "1/4")
    await fay.ok("PUT", "/v1/shares/fourth", fay.plan("1/4"))

    async def none() -> bool:
        return "queue of-fay" in await reason(fay, "fourth")

    await eventually(none, "the queue is named", LONG)
    assert queues() == {"ann": QUEUE, "bob": QUEUE, "eve": None, "fay": "of-fay"}

    broker.kill()
    broker.start()
    await broker.ready()
    assert (await ann.row("first") or {})["state"] == "ready"
    await eventually(told, "it is told again", LONG)
    await ann.ok("DELETE", f"/v1/shares/first?attempt={first['attempt']}")
    assert (await bob.until("second", "ready"))["address"], "its quota has come"
    for user, kernel in ((bob, "second"), (eve, "third"), (fay, "fourth")):
        row = await user.row(kernel)
        assert row is not None
        await user.ok("DELETE", f"/v1/shares/{kernel}?attempt={row['attempt']}")
    await eventually(lambda: not queues(), "Kueue lets the pods go", LONG)
