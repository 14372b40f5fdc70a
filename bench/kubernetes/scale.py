"""A server with many kernels in a cluster with many pods, on nodes that KWOK plays.

What its looks at free GPUs cost such a cluster is measured by `looks`, which comes first.

Nothing runs in such pods. Kernels are made by the engine itself, placed by the cluster's own
scheduler, which gives them shares of GPUs that their nodes say to have, and answered for by
`fake_agents`; what a kernel's relay needs on the server comes on top (see the subject ``load``).
"""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from jupyter_gpu_share.engines.base import KernelRequest
from jupyter_gpu_share.engines.kubernetes._names import KERNEL, selector
from jupyter_gpu_share.engines.kubernetes.api import PODS, KubeApi
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size
from tests.cluster import KERNEL_IMAGE, Cluster, wait_for
from tests.cluster._host import kwok_pods_here

from ..load import resident
from ..rows import Row
from . import child, fake_agents, looks, ours, testbed
from .pods import options
from .worker import Worker, worker

NODES, KERNELS = 50, 200
#: Other people's pods, in so many other namespaces, and some in the kernels' own.
FOREIGN, PLACES, BESIDE = 5000, 9, 200
CHANGES = 300
QUIET = 40.0
_SIZE = "1/8"
_GPUS_OF_A_NODE = 2
_PATIENCE = 180.0
_AT_ONCE = 16
#: Seconds between two looks of whoever follows, and between two changes.
_LOOK, _PAUSE = 0.005, 0.03
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"


def rows() -> list[Row]:
    """Looks, memory, delay and load of the server; nothing where no cluster can run."""
    cluster = testbed.cluster()
    if cluster is None:
        return []
    looked = looks.rows()
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster.kwok(NODES))
        stack.enter_context(gpus(cluster, nodes))
        stack.enter_context(kwok_pods_here())
        space = stack.enter_context(testbed.namespace(cluster))
        others = [stack.enter_context(testbed.namespace(cluster)) for _ in range(PLACES)]
        given = options(cluster, space)
        server = stack.enter_context(worker(child.__name__, "scale", given))
        before = server("open")
        stack.enter_context(worker(fake_agents.__name__, given))
        asyncio.run(_crowd(cluster, [space] * BESIDE, others, nodes))
        server("start", KERNELS)
        grown = server("resident") - before
        load = server("quiet", QUIET)
        delays = sorted(_delays(cluster, server, space))
    crowd = f"{FOREIGN} foreign pods, {KERNELS} kernels"
    p99 = delays[int(len(delays) * 0.99)] * 1000
    return [
        *looked,
        Row(f"{crowd}: the server's memory grows by", "MB", grown / 1e6, None, 60, "below 60 MB"),
        Row(
            f"{crowd}: change sent to the API server to engine.allocations(), 99th percentile of "
            f"{len(delays)}",
            "ms",
            p99,
            None,
            200,
            "below 200 ms",
        ),
        Row(f"{crowd}: CPU while nothing changes", "% of a core", load * 100, None, 1, "below 1 %"),
    ]


# -- the cluster -----------------------------------------------------------------------------------


@contextmanager
def gpus(cluster: Cluster, nodes: list[str]) -> Iterator[None]:
    """Let the nodes have GPUs like that of the real node."""
    real = next(
        each
        for each in cluster.api.get(_SLICES)["items"]
        if each["spec"].get("nodeName") == cluster.node
    )
    made = []
    try:
        for node in nodes:
            spec = copy.deepcopy(real["spec"])
            spec["nodeName"] = node
            spec["pool"] = {"name": node, "generation": 1, "resourceSliceCount": 1}
            spec["devices"] = spec["devices"][:_GPUS_OF_A_NODE]
            body = {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceSlice",
                "metadata": {"name": f"{node}-gpus"},
                "spec": spec,
            }
            cluster.api.create(_SLICES, body)
            made.append(f"{node}-gpus")
        yield
    finally:
        for name in made:
            cluster.api.delete(f"{_SLICES}/{name}")


async def _crowd(cluster: Cluster, beside: list[str], others: list[str], nodes: list[str]) -> None:
    """Make the foreign pods, and wait until they run."""
    spaces = beside + [others[n % len(others)] for n in range(FOREIGN - len(beside))]
    api = KubeApi(str(cluster.kubeconfig))
    limit = asyncio.Semaphore(_AT_ONCE)

    async def make(number: int, space: str) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"foreign-{number}", "labels": {"app": "foreign"}},
            "spec": {
                "nodeName": nodes[number % len(nodes)],
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": KERNEL_IMAGE}],
            },
        }
        async with limit:
            await api.create(PODS, body, space)

    await asyncio.gather(*(make(number, space) for number, space in enumerate(spaces)))
    await api.close()

    def run() -> bool:
        query = "labelSelector=app%3Dforeign&fieldSelector=status.phase%21%3DRunning"
        return not cluster.api.get(f"/api/v1/pods?{query}")["items"]

    await asyncio.to_thread(wait_for, run, "the foreign pods run", _PATIENCE)


def _delays(cluster: Cluster, server: Worker, space: str) -> list[float]:
    """Seconds from sending a change to its being told by the engine.

    Changed are paths of notebooks, one after the other, and at last every pod is evicted.
    """
    pods = f"/api/v1/namespaces/{space}/pods"
    query = selector(part="kernel").replace("=", "%3D").replace("/", "%2F").replace(",", "%2C")
    kernels = [
        (pod["metadata"]["name"], pod["metadata"]["labels"][KERNEL])
        for pod in cluster.api.get(f"{pods}?labelSelector={query}")["items"]
    ]
    assert len(kernels) == KERNELS
    chance = random.Random(4)  # noqa: S311 - no secret
    sent: dict[str, float] = {}

    def change(name: str, key: str, subresource: str, body: dict[str, Any]) -> None:
        sent[key] = time.monotonic()
        cluster.api.patch(f"{pods}/{name}{subresource}", body)
        time.sleep(chance.uniform(0, 2 * _PAUSE))

    server("follow")
    chance.shuffle(kernels)
    for number in range(CHANGES):
        # Each in its turn: what is changed twice at once may never be told in between.
        name, kernel_id = kernels[number % len(kernels)]
        path = f"notebook-{number}.ipynb"
        body = {"metadata": {"annotations": {"gpu-share.jupyter.org/path": path}}}
        change(name, f"{kernel_id} {path}", "", body)
    for name, kernel_id in kernels:
        status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
        change(name, f"{kernel_id} failed", "/status", {"status": status})
    seen = server("followed", list(sent))
    return [seen[key] - moment for key, moment in sent.items()]


# -- the server ------------------------------------------------------------------------------------


class Contender:
    """The server's process; the engine has its own thread, as it has in a Jupyter server.

    Options: as of :func:`.ours.configuration`.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        config = ours.configuration(given)
        config.KubernetesEngine.node_selector = {"type": "kwok"}
        self._runtime = Runtime.instance(config)
        self._seen: dict[str, float] = {}

    async def open(self) -> int:
        """Get to know the cluster, without a kernel; bytes of memory."""
        await self._call(self._all())
        return resident()

    async def start(self, count: int) -> None:
        """Start so many kernels, and wait until they run."""

        async def one(engine: Any) -> None:
            request = KernelRequest(
                kernel_id=str(uuid4()),
                kernel_name="python3",
                size=Size.parse(_SIZE),
                argv=("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
                env={},
                key=uuid4().hex.encode(),
                path="notebook.ipynb",
                user="bench",
            )
            await engine.start(request, lambda _: None)

        async def work() -> None:
            engine = await self._runtime.engine()
            await asyncio.gather(*(one(engine) for _ in range(count)))
            rows = await engine.allocations()
            assert len(rows) == count
            assert all(row.state.value == "active" and row.share is not None for row in rows)

        await self._call(asyncio.wait_for(work(), _PATIENCE))

    async def resident(self) -> int:
        """Bytes of memory that this process has for itself."""
        return resident()

    async def quiet(self, seconds: float) -> float:
        """The part of a core that the process takes for so long."""
        cpu, begun = time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        return (time.process_time() - cpu) / (time.monotonic() - begun)

    async def follow(self) -> None:
        """Note from now on when the engine tells something for the first time."""
        self._runtime.loop.call_soon_threadsafe(
            lambda: setattr(self, "_task", asyncio.ensure_future(self._follow()))
        )

    async def followed(self, keys: list[str]) -> dict[str, float]:
        """When it told these first: ``KERNEL PATH`` or ``KERNEL STATE``."""
        end = time.monotonic() + _PATIENCE
        while not set(keys) <= set(self._seen):
            assert time.monotonic() < end, f"never told: {set(keys) - set(self._seen)}"
            await asyncio.sleep(_LOOK)
        return {key: self._seen[key] for key in keys}

    async def _follow(self) -> None:
        while True:
            rows = await self._all()
            now = time.monotonic()
            for row in rows:
                for told in (row.path, row.state.value):
                    self._seen.setdefault(f"{row.kernel_id} {told}", now)
            await asyncio.sleep(_LOOK)

    async def _all(self) -> Any:
        return await (await self._runtime.engine()).allocations()

    async def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._runtime.call(work)
