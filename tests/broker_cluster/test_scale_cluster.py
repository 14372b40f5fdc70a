"""Kernels of many users on nodes that KWOK plays: what they cost the API server, in numbers.

Nothing runs in such pods: KWOK says of each that it runs. How fast all that is, `bench` measures.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from brokers_of_cluster import cluster_broker
from cluster.fixtures import CLUSTER_MARKS
from homes import User

from bench.kubernetes.brokered import is_write, most_watches
from bench.kubernetes.scale import gpus

pytestmark = CLUSTER_MARKS

USERS, EACH, NODES = 20, 5, 10
LONG = 240.0


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[str]]:
    """Nodes with GPUs, and room for all kernels."""
    with ExitStack() as stack:
        names = stack.enter_context(cluster.kwok(NODES))
        stack.enter_context(gpus(cluster, names))
        yield names


async def ready(user: User, kernels: set[str], listening: asyncio.Event) -> None:
    """Follow a user's stream until all of these have told that they are ready."""
    left = set(kernels)
    async with user.events(instance=True) as heard:
        async for _, kind, data in heard:
            listening.set()
            rows = data["shares"] if kind == "reset" else [data.get("row")]
            left -= {row["kernel_id"] for row in rows if row and row["state"] == "ready"}
            if not left:
                return
    raise AssertionError(f"the stream has ended; {left} were not told")


async def test_each_launch_is_three_writes_and_all_users_have_one_watch_of_each_kind(
    cluster: Any, namespace: str, nodes: list[str], tmp_path: Path
) -> None:
    since = cluster.audit_position()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            cluster_broker(tmp_path, cluster.kubeconfig, namespace, node_selector={"type": "kwok"})
        )
        users = [broker.user(f"user-{number}") for number in range(USERS)]
        kernels = {user.name: {f"{user.name}-{n}" for n in range(EACH)} for user in users}
        told = []
        for user in users:
            listening = asyncio.Event()
            told.append(asyncio.create_task(ready(user, kernels[user.name], listening)))
            await asyncio.wait_for(listening.wait(), LONG)
        asked = [
            user.ok("PUT", f"/v1/shares/{kernel}", user.plan("1/8"))
            for user in users
            for kernel in sorted(kernels[user.name])
        ]
        rows = await asyncio.wait_for(asyncio.gather(*asked), LONG)
        assert {row["address"] for row in rows} == {None}, "it is accepted before it is placed"
        await asyncio.wait_for(asyncio.gather(*told), LONG)

        events = await asyncio.to_thread(cluster.audit, since)
        writes = Counter(
            f"{event['verb']} {event['objectRef']['resource']}"
            for event in events
            if is_write(event)
        )
        created = ("create pods", "create secrets", "create resourceclaims")
        assert writes == dict.fromkeys(created, USERS * EACH)
        watches = most_watches(events)
        assert {"pods of the kernels", "resourceclaims of the kernels"} <= watches.keys()
        assert set(watches.values()) == {1}, watches
