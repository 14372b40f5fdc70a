"""Style ``annotation`` on a real API server and kubelet, with a FAKE of KAI Scheduler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from annotated import Make, Objects, call, holder, pod_of, the_engine
from cluster.fixtures import CLUSTER_MARKS
from fake_kai import MIB_OF_GPU, FakeKai, amount, fake_kai
from notebooks import LONG, Notebook
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.base import Waiting
from jupyter_gpu_share.engines.kubernetes._annotation import Annotation
from jupyter_gpu_share.engines.kubernetes._writes import Writes
from jupyter_gpu_share.engines.kubernetes.backends import kai_pods
from jupyter_gpu_share.errors import EngineError, GpuShareError, NotPossible
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS

MIB = 2**20
MARK = "gpu-share.jupyter.org/given-back"
BEFORE = "gpu-share.jupyter.org/amounts-before"
COMPUTE = """
import os
pid, numbers = os.getpid(), (n for n in range(9))
first = next(numbers)
"""
LOOK = "print(pid == os.getpid(), next(numbers))"
HELD = "print(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'])"


@pytest.fixture
def kai(cluster: Any) -> Iterator[FakeKai]:
    """One GPU of the real node, scheduled by the fake."""
    with fake_kai(cluster, gpus=1) as fake:
        yield fake


@pytest.fixture
def config(config: Config, kai: FakeKai) -> Config:
    """A server that holds shares by annotations; it looks twice within half a second."""
    config.KubernetesEngine.backend = "kai"
    config.KubernetesEngine.style = "annotation"
    config.KubernetesEngine.backend_options = {"settle": "0.5"}
    config.GpuShareProvisioner.queue_patience = 0.5
    return config


async def test_a_kernel_has_the_part_of_a_gpu_that_its_pod_counts_for(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one = await notebook("1/2").placed()
    row = one.allocation
    assert (row.backend, row.style) == ("kai", "annotation")
    assert row.share is not None
    assert row.share.memory_bytes == 40909 * MIB
    assert row.share.isolation.value == "framework"
    assert not row.share.simulated
    told = await one.run("import os; print(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'])")
    assert told == str(40909 * MIB)
    pod = pod_of(objects, one)
    assert pod["spec"]["schedulerName"] == "kai-scheduler"
    assert pod["spec"]["priority"] == 75
    group = pod["metadata"]["labels"]["runai-gpu-group"]
    assert [device.uuid for device in row.share.devices] == [group]
    assert kai.counted() == {group: 40909}
    (gpu,) = await Runtime.instance().capacity()
    assert gpu.free_bytes == (MIB_OF_GPU - 40910) * MIB


async def test_a_share_that_was_given_back_makes_room_and_comes_back_when_there_is_room(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, rival = notebook("3/4"), notebook("3/4")
    await one.placed()
    await one.run("import os; x = object(); n = id(x); pid = os.getpid()")
    before = pod_of(objects, one)["metadata"]["annotations"]["gpu-fraction"]
    await rival.start()
    await rival.state("queued")
    await eventually(lambda: rival.allocation.queue is not None, "the place is known")
    assert rival.allocation.reason == "No GPU has that much free now."
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    assert await rival.run("print('here')") == "here"
    assert await one.run("print(id(x) == n, os.getpid() == pid)") == "True True"

    news: list[Any] = []
    back = asyncio.ensure_future(call(engine.take_back(one.kernel_id, news.append)))
    await eventually(lambda: news, "it is told that there is no room")
    assert isinstance(news[0], Waiting)
    assert news[0].reason == (
        "The GPU of the kernel has 20.1 GiB free now, its share is 59.9 GiB; others hold the rest."
    )
    assert amount(pod_of(objects, one)) <= 2
    assert not back.done()
    await rival.close()
    await back
    notes = pod_of(objects, one)["metadata"]["annotations"]
    assert notes["gpu-fraction"] == before
    assert MARK not in notes
    assert await one.run("print(id(x) == n)") == "True"
    (taken,) = kai.counted().values()
    assert taken == amount(pod_of(objects, one))


async def test_a_full_gpu_has_room_again_when_any_of_its_shares_is_given_back(
    notebook: Make, kai: FakeKai
) -> None:
    four = [notebook("1/4") for _ in range(4)]
    for one in four:
        await one.placed()
    fifth = notebook("1/4")
    await fifth.start()
    await fifth.state("queued")
    engine = await the_engine()
    await call(engine.give_back(four[1].kernel_id))
    assert await fifth.run("print('here')") == "here"
    (taken,) = kai.counted().values()
    assert taken <= MIB_OF_GPU


async def test_room_that_somebody_else_took_meanwhile_is_given_back_before_it_is_used(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any
) -> None:
    one, rival = notebook("3/4"), notebook("1/2")
    one.config.KubernetesEngine.backend_options = {"settle": "20"}
    await one.placed()
    group = pod_of(objects, one)["metadata"]["labels"]["runai-gpu-group"]
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    with kai.held_back():
        await rival.start()
        growing = asyncio.ensure_future(call((await holder(one)).grow()))
        await eventually(lambda: amount(pod_of(objects, one)) > 2, "the share is written")
        assert MARK in pod_of(objects, one)["metadata"]["annotations"]
        # KAI goes by what it saw before.
        kai.bind(pod_of(objects, rival), group)
        assert sum(kai.counted().values()) > MIB_OF_GPU
        refused = await growing
    assert refused.late
    assert "others hold the rest" in refused.reason
    assert amount(pod_of(objects, one)) <= 2
    assert (await holder(one)).lent
    assert sum(kai.counted().values()) <= MIB_OF_GPU


async def test_without_room_nothing_is_written_and_what_changed_meanwhile_is_not_overwritten(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    one, rival = notebook("3/4"), notebook("3/4")
    await one.placed()
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    await rival.start()
    before = pod_of(objects, one)["metadata"]
    held = await holder(one)
    refused = await call(held.grow())
    assert not refused.late
    # The kubelet may tell of the pod's status meanwhile: that is not ours.
    after = pod_of(objects, one)["metadata"]
    assert (after["annotations"], after["labels"]) == (before["annotations"], before["labels"])

    await rival.close()
    await eventually(lambda: len(objects("pods")) == 1, "the rival's pod is gone")
    looks = held._others

    async def changed_meanwhile(pod: Any) -> Any:
        held._others = looks  # type: ignore[method-assign]
        path = f"/api/v1/namespaces/{namespace}/pods/{before['name']}"
        noted = {MARK: json.dumps({"gpu-fraction": "0.25"})}
        await asyncio.to_thread(cluster.api.patch, path, {"metadata": {"annotations": noted}})
        return await looks(pod)

    held._others = changed_meanwhile  # type: ignore[method-assign]
    assert await call(held.grow()) is None
    assert pod_of(objects, one)["metadata"]["annotations"]["gpu-fraction"] == "0.25"


async def test_giving_up_gives_back_what_was_just_written(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one = notebook("3/4")
    one.config.KubernetesEngine.backend_options = {"settle": "60"}
    await one.placed()
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    runtime = Runtime.instance()
    back = asyncio.ensure_future(runtime.call(engine.take_back(one.kernel_id, lambda _: None)))
    await eventually(lambda: amount(pod_of(objects, one)) > 2, "the share is written")
    back.cancel()
    await eventually(lambda: amount(pod_of(objects, one)) <= 2, "the share is given back", LONG)
    assert MARK in pod_of(objects, one)["metadata"]["annotations"]


async def test_of_two_that_grow_at_once_never_both_have_the_gpu(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, two = notebook("3/4"), notebook("3/4")
    engine = None
    for each in (one, two):
        each.config.KubernetesEngine.backend_options = {"settle": "0"}
        await each.placed()
        engine = await the_engine()
        await call(engine.give_back(each.kernel_id))
    assert engine is not None
    holders = [await holder(one), await holder(two)]

    async def both() -> list[Any]:
        return await asyncio.gather(*(each.grow() for each in holders))

    held = 0
    for _ in range(15):
        refused = await call(both())
        holding = [each for each, why in zip(holders, refused, strict=True) if why is None]
        assert len(holding) <= 1
        assert [each.lent for each in holders].count(False) == len(holding)
        (taken,) = kai.counted().values()
        assert taken <= MIB_OF_GPU
        held += len(holding)
        for each in holding:
            await call(each.drop())
    # Waiting, one gets it, and the other one when the first gives it back.
    backs = [
        asyncio.ensure_future(call(engine.take_back(each.kernel_id, lambda _: None)))
        for each in (one, two)
    ]
    done, waiting = await asyncio.wait(backs, return_when=asyncio.FIRST_COMPLETED, timeout=LONG)
    assert len(done) == len(waiting) == 1
    first = one if backs[0] in done else two
    await call(engine.give_back(first.kernel_id))
    await asyncio.gather(*backs)
    (taken,) = kai.counted().values()
    assert taken <= MIB_OF_GPU


async def test_a_server_that_takes_over_trusts_no_share_that_was_not_made_sure_of(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    one = await notebook("3/4").placed()
    engine = await the_engine()
    whole = pod_of(objects, one)["metadata"]["annotations"]["gpu-fraction"]
    await call(engine.give_back(one.kernel_id))
    name = pod_of(objects, one)["metadata"]["name"]
    # As a server leaves it that is killed after it has written the share.
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    cluster.api.patch(path, {"metadata": {"annotations": {"gpu-fraction": whole}}})
    other = Annotation((await the_engine())._cluster, name, Writes())
    await call(other.adopt())
    assert other.lent
    assert amount(pod_of(objects, one)) <= 2
    assert await call(other.grow()) is None
    again = Annotation((await the_engine())._cluster, name, Writes())
    await call(again.adopt())
    assert not again.lent
    assert pod_of(objects, one)["metadata"]["annotations"]["gpu-fraction"] == whole


async def test_a_restart_takes_a_share_again_that_was_given_back(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, rival = notebook("3/4"), notebook("3/4")
    await one.placed()
    await one.run("x = 1")
    before = pod_of(objects, one)
    engine = await the_engine()
    await call(engine.give_back(one.kernel_id))
    await rival.start()
    assert await rival.run("print('here')") == "here"
    await one.manager.restart_kernel(now=True)
    row = await one.state("queued")
    assert "others hold the rest" in row.reason
    cell = asyncio.ensure_future(one.run("x"))
    await rival.close()
    assert "NameError" in await cell
    after = pod_of(objects, one)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert amount(after) == amount(before)
    assert not (await holder(one)).lent


async def test_what_could_not_be_taken_again_is_not_given_back(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    """The server may not see the pods of other namespaces."""
    name = "sees-no-others"
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    cluster.api.create(
        f"{role}/roles",
        {
            "metadata": {"name": name},
            "rules": [
                {
                    "apiGroups": ["", "coordination.k8s.io"],
                    "resources": ["pods", "secrets", "configmaps", "leases"],
                    "verbs": ["get", "list", "watch", "create", "patch", "delete"],
                }
            ],
        },
    )
    cluster.api.create(
        f"{role}/rolebindings",
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )
    one = notebook("1/2")
    kubeconfig = cluster.service_account_kubeconfig(namespace, name)
    one.config.KubernetesEngine.kubeconfig = str(kubeconfig)
    one.config.KubernetesEngine.server_name = ""
    await one.placed()
    engine = await the_engine()
    before = amount(pod_of(objects, one))
    with pytest.raises(EngineError, match="how much memory its GPU has is not known"):
        await call(engine.give_back(one.kernel_id))
    # It may see nodes, and still no pods of others.
    seen = [cluster.api.get(f"/api/v1/nodes/{cluster.node}")]
    engine._cluster.facts = engine._cluster.facts.__class__(nodes=seen)
    with pytest.raises(EngineError, match="may not see who else is on its GPU"):
        await call(engine.give_back(one.kernel_id))
    assert amount(pod_of(objects, one)) == before
    assert MARK not in pod_of(objects, one)["metadata"]["annotations"]
    assert await one.run("print('undisturbed')") == "undisturbed"


async def test_a_kernel_whose_gpu_was_reclaimed_says_so(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    one = notebook("1/2")
    one.config.KubernetesEngine.backend_options = {"priority": "build-preemptible"}
    await one.placed()
    name = pod_of(objects, one)["metadata"]["name"]
    assert cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", grace=0)
    await one.state("failed")
    assert "most likely reclaimed" in one.allocation.reason


async def test_a_kernel_that_kai_preempts_keeps_its_variables(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    """KAI deletes pods with the grace that they have themselves, and leaves no word in them."""
    one = notebook("1/2")
    one.config.KubernetesEngine.backend_options = {"priority": "build-preemptible"}
    await one.placed()
    await one.run("x = 41")
    name = pod_of(objects, one)["metadata"]["name"]
    assert cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")
    row = await one.state("released", "failed")
    assert row.state is State.RELEASED, row.reason
    assert "most likely for other work: its priority allows that. The variables are" in row.reason
    assert "42" in await one.run("print(x + 1)")


# -- the notebook's view: released, woken, and of another size -------------------------------------


async def change(one: Notebook, size: str) -> bool:
    wanted = Size.parse(size)
    return await Runtime.instance().change_size(one.kernel_id, wanted, lose_variables=False)


async def test_a_notebook_is_released_and_its_next_cell_brings_the_share_back(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, rival = notebook("3/4"), notebook("3/4")
    await one.placed()
    await one.run(COMPUTE)
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    row = one.allocation
    assert (row.state, row.share, row.kept.how) == (State.RELEASED, None, "in-place")
    assert amount(pod_of(objects, one)) <= 2
    await rival.start()
    await rival.state("active", "idle")
    cell = asyncio.ensure_future(one.run(LOOK))
    await eventually(lambda: "others hold the rest" in one.allocation.reason, "it waits", LONG)
    await rival.close()
    assert (await cell).startswith("True 1")
    await one.state("active", "idle")
    assert amount(pod_of(objects, one)) == int(MIB_OF_GPU * 0.749_25)


async def test_its_size_changes_while_it_lives(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one = await notebook("1/4").placed()
    await one.run(COMPUTE)
    uid = pod_of(objects, one)["metadata"]["uid"]
    for size in ("3/4", "1/2", "20GiB"):
        assert await change(one, size)
        row, pod = one.allocation, pod_of(objects, one)
        assert row.share is not None
        assert row.size == size == pod["metadata"]["annotations"]["gpu-share.jupyter.org/size"]
        assert abs(row.share.memory_bytes // MIB - amount(pod)) <= 1
        held = await one.run(HELD)
        assert held == str(row.share.memory_bytes)
        assert pod["metadata"]["uid"] == uid
        assert not {BEFORE, MARK} & pod["metadata"]["annotations"].keys()
    (taken,) = kai.counted().values()
    assert abs(taken - 20 * 1024) <= 1
    assert (await one.run(LOOK)).startswith("True 1")


async def test_what_it_shrinks_by_is_for_the_next_one(notebook: Make, kai: FakeKai) -> None:
    one, rival = notebook("3/4"), notebook("1/2")
    await one.placed()
    await one.run(COMPUTE)
    await rival.start()
    await rival.state("queued")
    assert await change(one, "1/2")
    assert await rival.run("print('here')") == "here"
    with pytest.raises(NotPossible, match=r"size cannot become 3/4 now|would lose generator"):
        await change(one, "3/4")
    (taken,) = kai.counted().values()
    assert taken <= MIB_OF_GPU
    assert (await one.run(LOOK)).startswith("True 1")


async def test_one_that_gave_its_share_back_comes_back_with_the_new_size(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one = await notebook("1/4").placed()
    await one.run(COMPUTE)
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    assert await change(one, "1/2")
    assert amount(pod_of(objects, one)) <= 2
    assert (await one.run(LOOK)).startswith("True 1")
    row = await one.state("active", "idle")
    assert row.share is not None
    assert (row.size, row.share.memory_bytes) == ("1/2", 40909 * MIB)
    assert await one.run(HELD) == str(40909 * MIB)


async def test_growth_is_undone_where_somebody_else_was_faster(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    one, rival = notebook("1/4"), notebook("1/2")
    one.config.KubernetesEngine.backend_options = {"settle": "20"}
    await one.placed()
    await one.run(COMPUTE)
    before = amount(pod_of(objects, one))
    group = pod_of(objects, one)["metadata"]["labels"]["runai-gpu-group"]
    with kai.held_back():
        await rival.start()
        growing = asyncio.ensure_future(change(one, "3/4"))
        await eventually(lambda: amount(pod_of(objects, one)) > before, "the share is written")
        assert BEFORE in pod_of(objects, one)["metadata"]["annotations"]
        # KAI goes by what it saw before.
        kai.bind(pod_of(objects, rival), group)
        with pytest.raises(NotPossible, match="Others were faster"):
            await growing
    assert amount(pod_of(objects, one)) == before
    assert BEFORE not in pod_of(objects, one)["metadata"]["annotations"]
    row = one.allocation
    assert row.share is not None
    assert row.size == "1/4"
    (taken,) = kai.counted().values()
    assert taken <= MIB_OF_GPU
    assert (await one.run(LOOK)).startswith("True 1")
    assert await one.run(HELD) == str(row.share.memory_bytes)


async def test_a_server_that_takes_over_undoes_growth_that_was_not_made_sure_of(
    notebook: Make, objects: Objects, kai: FakeKai, cluster: Any, namespace: str
) -> None:
    one = await notebook("1/4").placed()
    pod = pod_of(objects, one)
    notes = {"gpu-fraction": "0.74925", **kai_pods.resizing(pod)}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    cluster.api.patch(path, {"metadata": {"annotations": notes}})
    other = Annotation((await the_engine())._cluster, pod["metadata"]["name"], Writes())
    await call(other.adopt())
    assert not other.lent
    after = pod_of(objects, one)["metadata"]["annotations"]
    assert after["gpu-fraction"] == pod["metadata"]["annotations"]["gpu-fraction"]
    assert BEFORE not in after


async def test_a_limit_that_the_container_was_started_with_stays(
    notebook: Make, objects: Objects, kai: FakeKai
) -> None:
    """KAI keeps to such a limit itself: the variables go to another pod."""
    one = notebook("1/4")
    one.config.KubernetesEngine.backend_options = {"keys": "container", "settle": "0.5"}
    await one.placed()
    await one.run("x = [1]; y = x")
    uid = pod_of(objects, one)["metadata"]["uid"]
    kept = await Runtime.instance().kept_by_change(one.kernel_id, Size.parse("1/2"))
    assert (kept.how, kept.lost) == ("snapshot", ())
    assert await change(one, "1/2")
    assert "True" in await one.run("print(x is y)")
    pods = {pod["metadata"]["uid"] for pod in objects("pods")}
    await eventually(lambda: uid not in pods or len(objects("pods")) == 1, "the old one is gone")


async def test_in_style_pod_nothing_is_given_back(notebook: Make, kai: FakeKai) -> None:
    one = await notebook("1/2", style="pod").placed()
    assert one.allocation.share is not None
    assert one.allocation.share.memory_bytes == MIB_OF_GPU // 2 * MIB
    engine = await the_engine()
    with pytest.raises(GpuShareError, match="part of its pod"):
        await call(engine.give_back(one.kernel_id))
