"""Style lease on a real cluster: without privilege, and with drivers of other shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from notebooks import LONG, Notebook
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.kubernetes.backends._quantity import parse_quantity
from jupyter_gpu_share.errors import GpuShareError
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
GIB, MIB = 2**30, 2**20
ADMIN = "resource.kubernetes.io/admin-access"
DEVICES = "gpu.nvidia.com.deviceclass.resource.k8s.io/devices"
CLAIMS = "count/resourceclaims.resource.k8s.io"


def results(objects: Objects) -> list[dict[str, Any]]:
    return [
        result
        for claim in objects("claims")
        for result in claim.get("status", {})
        .get("allocation", {})
        .get("devices", {})
        .get("results", [])
    ]


def consumed(objects: Objects, what: str = "memory") -> list[int]:
    """What each claim of the namespace takes of a capacity, the least first."""
    found = [result["consumedCapacity"][what] for result in results(objects)]
    return sorted(map(parse_quantity, found))


def writes(cluster: Any, namespace: str, since: int) -> set[str]:
    """Verbs of what this package has written to pods and claims of the namespace."""
    return {
        entry["verb"]
        for entry in cluster.audit(since)
        if entry.get("objectRef", {}).get("namespace") == namespace
        and entry["objectRef"]["resource"] in ("pods", "resourceclaims")
        and entry.get("userAgent") == "jupyter-gpu-share"
    }


async def engine() -> Any:
    runtime = Runtime.instance()
    return await runtime.call(runtime.engine("kubernetes"))


async def test_a_share_goes_and_comes_back_in_a_restricted_namespace_beside_a_quota(
    notebook: Make, cluster: Any, namespace: str, objects: Objects
) -> None:
    place = f"/api/v1/namespaces/{namespace}"
    labels = cluster.api.get(place)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert ADMIN not in labels
    hard = {CLAIMS: "6", DEVICES: "6"}
    quota = {"metadata": {"name": "shares"}, "spec": {"hard": hard}}
    cluster.api.create(f"{place}/resourcequotas", quota)
    one, other, rival = (notebook("1", style="lease") for _ in range(3))
    since = cluster.audit_position()
    await one.start()
    await other.start()
    assert "delete" not in writes(cluster, namespace, since), "no lease has stepped aside"
    await one.run("import os; x = object(); n = id(x); pid = os.getpid()")
    share = one.allocation.share
    assert share is not None
    assert await one.run("print(os.environ['GPU_UUID'])") == share.devices[0].uuid
    whole = share.memory_bytes
    assert consumed(objects) == [MIB, MIB, whole - MIB, whole - MIB]
    assert not any(result.get("adminAccess") for result in results(objects))
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    await eventually(
        lambda: consumed(objects) == [MIB, MIB, whole - MIB], "all but its rest is free", LONG
    )
    await rival.start()
    await rival.state("active", "idle")
    cell = asyncio.ensure_future(one.run("print(id(x) == n, pid == os.getpid())"))
    await eventually(lambda: one.allocation.queue is not None, "it waits for its share", LONG)
    assert one.allocation.state is not State.ACTIVE
    await eventually(
        lambda: (
            cluster.api.get(f"{place}/resourcequotas/shares")["status"]["used"]
            == {CLAIMS: "6", DEVICES: "6"}
        ),
        "each claim is counted",
        LONG,
    )
    late = notebook("1/4", style="lease")
    with pytest.raises(GpuShareError, match="quota is used up"):
        await late.start()
    await rival.close()
    assert await cell == "True True"
    assert one.allocation.share == share


@pytest.fixture
def shaped(cluster: Any) -> Iterator[Callable[..., None]]:
    """Gives the GPUs another shape until the test is over."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **shape: stack.enter_context(cluster.driver(**shape))


async def test_where_the_smallest_amount_is_large_it_takes_administrator_access(
    notebook: Make, cluster: Any, namespace: str, objects: Objects, shaped: Callable[..., None]
) -> None:
    shaped(minimum="1Gi")
    refused = notebook("80GiB", style="lease")
    with pytest.raises(GpuShareError, match="admin access"):
        await refused.start()
    found = await Runtime.instance().call((await engine()).diagnose())
    assert any("administrator access on NVIDIA" in each.what for each in found)
    cluster.api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {ADMIN: "true"}}})
    one, rival, other = (notebook("80GiB", style="lease") for _ in range(3))
    await one.start()
    await other.start()
    await one.run("x = object(); n = id(x)")
    runtime = Runtime.instance()
    await runtime.call((await engine()).give_back(one.kernel_id))
    await rival.start()
    await rival.close()
    await runtime.call(asyncio.wait_for((await engine()).take_back(one.kernel_id, print), LONG))
    assert await one.run("print(id(x) == n)") == "True"
    privileged = [result for result in results(objects) if result.get("adminAccess")]
    assert len(privileged) == 2


async def test_other_capacities_are_asked_for_in_the_same_part(
    notebook: Make, objects: Objects, shaped: Callable[..., None]
) -> None:
    shaped(cores=100)
    one, rest = notebook("1/4", style="lease"), notebook("3/4", style="lease")
    await one.start()
    await rest.start()
    assert consumed(objects, "cores") == [0, 0, 25, 75]
    shares = [each.allocation.share for each in (one, rest)]
    assert shares[0] is not None
    assert shares[1] is not None
    assert shares[0].devices == shares[1].devices, "none takes what belongs to the other"
    free = {gpu.uuid: gpu.free_bytes for gpu in await Runtime.instance().capacity()}
    assert free[shares[0].devices[0].uuid] == 0, "there are no cores left"
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    await eventually(lambda: consumed(objects, "cores") == [0, 0, 75], "its cores are free", LONG)
    assert await one.run("print(1)") == "1"


async def test_a_device_that_is_tainted_and_an_old_generation_are_no_room(
    notebook: Make, cluster: Any, objects: Objects, shaped: Callable[..., None]
) -> None:
    shaped(tainted="gpu-1")
    with old_pool(cluster):
        one = await notebook("1", style="pod").start()
        share = one.allocation.share
        assert share is not None
        gpus = {gpu.uuid: gpu.free_bytes for gpu in await Runtime.instance().capacity()}
        assert sorted(gpus.values()) == [0, 0, 80 * GIB]
        assert gpus["GPU-new"] == 80 * GIB
        assert "GPU-old" not in gpus


@contextmanager
def tainting(cluster: Any, device: str) -> Iterator[None]:
    """A rule of the administrator keeps new claims off a device."""
    place = "/apis/resource.k8s.io/v1/devicetaintrules"
    spec = {
        "deviceSelector": {"driver": "gpu.nvidia.com", "device": device},
        "taint": {"key": "example.org/repair", "effect": "NoSchedule"},
    }
    cluster.api.create(place, {"metadata": {"name": "repair"}, "spec": spec})
    try:
        yield
    finally:
        cluster.api.delete(f"{place}/repair")


async def test_a_device_that_a_rule_taints_is_no_room_until_the_rule_is_gone(
    notebook: Make, cluster: Any
) -> None:
    with tainting(cluster, "gpu-1"):
        one = await notebook("1", style="pod").start()
        await one.state("active", "idle")
        free = [gpu.free_bytes for gpu in await Runtime.instance().capacity()]
        assert free == [0, 0], "one is taken, and one is tainted"
        late = await notebook("1", style="pod").start()
        await eventually(lambda: late.allocation.queue is not None, "it waits", LONG)
    await late.state("active", "idle")
    assert await late.run("print(1)") == "1"


@contextmanager
def old_pool(cluster: Any) -> Iterator[None]:
    """A pool of no node, of which a slice of an older generation has been left."""
    place = "/apis/resource.k8s.io/v1/resourceslices"
    for number, name in enumerate(("old", "new"), start=1):
        device = {
            "name": name,
            "attributes": {
                "type": {"string": "gpu"},
                "uuid": {"string": f"GPU-{name}"},
                "simulated": {"bool": True},
            },
            "capacity": {"memory": {"value": "80Gi"}},
        }
        spec = {
            "driver": "gpu.nvidia.com",
            "pool": {"name": "spare", "generation": number, "resourceSliceCount": 1},
            "nodeSelector": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "nowhere", "operator": "Exists"}]}
                ]
            },
            "devices": [device],
        }
        cluster.api.create(place, {"metadata": {"name": f"spare-{name}"}, "spec": spec})
    try:
        yield
    finally:
        for name in ("old", "new"):
            cluster.api.delete(f"{place}/spare-{name}")


@pytest.fixture
def mig_class(cluster: Any) -> Iterator[None]:
    place = "/apis/resource.k8s.io/v1/deviceclasses"
    own = "device.driver == 'gpu.nvidia.com'"
    instance = f"{own} && device.attributes['gpu.nvidia.com'].type == 'mig'"
    spec = {"selectors": [{"cel": {"expression": instance}}]}
    cluster.api.create(place, {"metadata": {"name": "mig.nvidia.com"}, "spec": spec})
    yield
    cluster.api.delete(f"{place}/mig.nvidia.com")


async def test_instances_use_up_their_gpu_and_several_need_no_uuid(
    notebook: Make, mig_class: None, shaped: Callable[..., None]
) -> None:
    shaped(partitions=7)
    two = await notebook("2xmig-1g.10gb", style="pod").start()
    await two.state("active", "idle")
    share = two.allocation.share
    assert share is not None
    assert len({device.uuid for device in share.devices}) == 2
    one = await notebook("1", style="pod").start()
    await one.state("active", "idle")
    gpus = await Runtime.instance().capacity()
    free = [gpu for gpu in gpus if gpu.free_bytes]
    assert len(gpus) == 16
    assert [gpu.profile for gpu in free] == ["1g.10gb"] * 5
