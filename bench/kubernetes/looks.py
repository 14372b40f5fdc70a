"""What pages that show free GPUs cost a cluster with many pods of other people.

The pods are written to the API server of the test cluster, where no scheduler knows them. One
server looks; what many come to is that, times their number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from threading import Event, Thread
from typing import Any

from jupyter_gpu_share.engines.kubernetes._cluster import Cluster as Known
from jupyter_gpu_share.engines.kubernetes._kept import kept_of
from jupyter_gpu_share.engines.kubernetes.api import NODES, PODS, KubeApi, Resource
from jupyter_gpu_share.engines.kubernetes.api._transport import Transport
from jupyter_gpu_share.runtime import Runtime
from tests.cluster import Cluster

from ..rows import Row
from . import child, ours, testbed
from .pods import options
from .worker import worker

FOREIGN, PLACES, SERVERS = 10_000, 10, 200
#: Of so many pods one asks for a GPU.
_WITH_GPU = 20
#: Characters of a note, with which a pod is as large as those of real clusters, some 5 KB.
_NOTE = 3200
#: Seconds of looks, between two looks of a page, and between two changes of a foreign pod.
_WATCHED, _LOOK, _CHANGE = 60.0, 15.0, 1.0
#: Seconds in which nobody looks, with as many sweeps, and until the engine has settled before them.
_IDLE, _SETTLED = 60.0, 5.0
#: Before, each look listed the pods, and every other one the nodes; lists that are measured.
_LISTS = 2
_GOAL = 100
_AT_ONCE = 24


def rows() -> list[Row]:
    """Bytes and CPU of looks, before and now; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    with ExitStack() as stack:
        space = stack.enter_context(testbed.namespace(cluster))
        others = [stack.enter_context(testbed.namespace(cluster)) for _ in range(PLACES)]
        stack.enter_context(_crowd(cluster, others))
        given = options(cluster, space, backend="device-plugin")
        server = stack.enter_context(worker(child.__name__, "looks", given))
        idle = server("idle")
        old_bytes, old_cpu = server("as_before")
        first, _ = server("look")
        with _changes(cluster, others[0]):
            new_bytes, new_cpu = server("watched")
        new_cpu = max(new_cpu - idle, 0.0)
    crowd = f"{FOREIGN} foreign pods, {60 / _CHANGE:.0f} of them change in a minute, a page is open"
    goal = f"at most a {_GOAL}th of before"
    many = SERVERS / 1e6
    return [
        Row(
            f"{crowd}: answers of the API server, each minute; peer: a list for each look",
            "MB",
            new_bytes / 1e6,
            old_bytes / 1e6,
            old_bytes / 1e6 / _GOAL,
            goal,
        ),
        Row(
            "the same: CPU of the server for it, each minute, beside what it takes without a page",
            "ms",
            new_cpu * 1000,
            old_cpu * 1000,
            old_cpu * 1000 / _GOAL,
            goal,
        ),
        Row(
            f"the same: answers for {SERVERS} servers, each minute; one, multiplied",
            "MB",
            new_bytes * many,
            old_bytes * many,
        ),
        Row("the same: answers for the first look, when the page opens", "MB", first / 1e6, None),
    ]


# -- the cluster -----------------------------------------------------------------------------------


@contextmanager
def _crowd(cluster: Cluster, spaces: list[str]) -> Iterator[None]:
    """Other people's pods."""

    async def each(do: Callable[[KubeApi, int], Awaitable[Any]]) -> None:
        api = KubeApi(str(cluster.kubeconfig))
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                await do(api, number)

        await asyncio.gather(*(one(number) for number in range(FOREIGN)))
        await api.close()

    def name(number: int) -> tuple[str, str]:
        return f"foreign-{number}", spaces[number % len(spaces)]

    try:
        asyncio.run(each(lambda api, n: api.create(PODS, _pod(n), name(n)[1])))
        yield
    finally:
        asyncio.run(each(lambda api, n: api.delete(PODS, *name(n), grace=0)))


def _pod(number: int) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": "1"} if number % _WITH_GPU == 0 else {}
    main = {"name": "main", "image": "nothing:1", "resources": {"limits": gpus}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"foreign-{number}", "annotations": {"note": "x" * _NOTE}},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            "containers": [main],
        },
    }


@contextmanager
def _changes(cluster: Cluster, space: str) -> Iterator[None]:
    """Have one foreign pod after the other change."""
    ended = Event()

    def change() -> None:
        number = 0
        while not ended.wait(_CHANGE):
            path = (
                f"/api/v1/namespaces/{space}/pods/foreign-{number % (FOREIGN // PLACES) * PLACES}"
            )
            cluster.api.patch(path, {"metadata": {"annotations": {"turn": str(number)}}})
            number += 1

    thread = Thread(target=change, name="changes")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- the server ------------------------------------------------------------------------------------


class Contender:
    """The server's process; its engine has a thread of its own, as in a Jupyter server.

    Options: as of :func:`.ours.configuration`.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._runtime = Runtime.instance(ours.configuration(given))
        self._bytes = 0
        self._count()

    async def idle(self) -> float:
        """Get to know the cluster; seconds of CPU of a minute in which nobody looks."""
        await self._runtime.call(self._known())
        await asyncio.sleep(_SETTLED)
        _, cpu = await self._of(lambda: asyncio.sleep(_IDLE))
        return cpu * 60 / _IDLE

    async def as_before(self) -> tuple[float, float]:
        """Bytes and seconds of CPU of a minute of looks, each of which lists."""
        known = await self._runtime.call(self._known())
        pods, pods_cpu = await self._of(lambda: self._runtime.call(_lists(known.api, PODS)))
        nodes, nodes_cpu = await self._of(lambda: self._runtime.call(_lists(known.api, NODES)))
        times = 60 / _LOOK / _LISTS
        return times * (pods + nodes / 2), times * (pods_cpu + nodes_cpu / 2)

    async def look(self) -> tuple[float, float]:
        """Bytes and seconds of CPU of one look."""
        return await self._of(self._runtime.capacity)

    async def watched(self) -> tuple[float, float]:
        """Bytes and seconds of CPU of a minute of looks."""

        async def looks() -> None:
            end = time.monotonic() + _WATCHED
            while (left := end - time.monotonic()) > 0:
                await self._runtime.capacity()
                await asyncio.sleep(min(_LOOK, left))

        amount, cpu = await self._of(looks)
        known = await self._runtime.call(self._known())
        pods = (await self._runtime.call(known.shown())).pods
        assert len(pods) == FOREIGN // _WITH_GPU, f"{len(pods)} pods with GPUs are known"
        return amount * 60 / _WATCHED, cpu * 60 / _WATCHED

    async def _known(self) -> Known:
        engine: Any = await self._runtime.engine()
        found: Known = await engine._opened()
        return found

    async def _of(self, work: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
        amount, cpu = self._bytes, time.process_time()
        await work()
        return self._bytes - amount, time.process_time() - cpu

    def _count(self) -> None:
        """Count the bytes of all answers, as they are before compression."""
        read, stream = Transport.read, Transport.stream

        async def counted(transport: Transport, *where: Any, **request: Any) -> bytes:
            data = await read(transport, *where, **request)
            self._bytes += len(data)
            return data

        @asynccontextmanager
        async def followed(transport: Transport, *where: Any) -> AsyncIterator[Any]:
            async def lines(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
                async for line in source:
                    self._bytes += len(line) + 1
                    yield line

            async with stream(transport, *where) as source:
                yield lines(source)

        Transport.read, Transport.stream = counted, followed  # type: ignore[method-assign, assignment]


async def _lists(api: KubeApi, resource: Resource) -> None:
    keep, fields = kept_of(resource)
    query = {"fieldSelector": fields} if fields else {}
    for _ in range(_LISTS):
        await api.select(resource, None, keep, **query)
