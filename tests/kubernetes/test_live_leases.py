"""In style lease a kernel in a pod gets another size while it goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from notebooks import LONG, Notebook
from servers import until
from waiting import PATIENCE, eventually

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.engines.kubernetes._kernel_objects import KernelObjects
from jupyter_gpu_share.engines.kubernetes._lease import Lease
from jupyter_gpu_share.errors import EngineError, NotPossible
from jupyter_gpu_share.runtime import Runtime
from jupyter_gpu_share.size import Size

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
GIB = 2**30
COMPUTE = """
import os
from gpu_share_kernel import simulated
pid, memory = os.getpid(), simulated.allocate("10GiB")
numbers = (n for n in range(9)); first = next(numbers)
"""
#: The process, what only it can have, and how much it may take. Fractions are a thousandth smaller.
LOOK = (
    "print(pid == os.getpid(), next(numbers), simulated.memory()[0] >> 30,"
    " round(int(os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES']) / 2**30))"
)


@pytest.fixture
def lease(notebook: Make) -> Make:
    """Makes notebooks whose shares are held beside them."""
    return lambda size: notebook(size, style="lease")


async def change(one: Notebook, size: str, **options: Any) -> bool:
    options.setdefault("lose_variables", False)
    return await Runtime.instance().change_size(one.kernel_id, Size.parse(size), **options)


async def way(one: Notebook, size: str) -> tuple[str, tuple[str, ...]]:
    kept = await Runtime.instance().kept_by_change(one.kernel_id, Size.parse(size))
    return kept.how, kept.lost


async def used() -> list[int]:
    """GiB that are held of each GPU, the fullest first."""
    found = await Runtime.instance().capacity()
    return sorted((round((gpu.memory_bytes - gpu.free_bytes) / GIB) for gpu in found), reverse=True)


def leases(objects: Objects) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in objects("pods")
        if "-lease-" in pod["metadata"]["name"] and not pod["metadata"].get("deletionTimestamp")
    ]


async def holds(one: Notebook, size: str, gib: int) -> None:
    """All agree on what it holds: the row, the pod, and what is free."""
    row = one.allocation
    assert row.share is not None
    assert (row.size, round(row.share.memory_bytes / GIB)) == (size, gib)
    await held(gib, 0)


async def held(*gib: int) -> None:
    """What is free is read anew every few seconds."""

    async def agreed() -> bool:
        return await used() == list(gib)

    await eventually(agreed, f"{gib} GiB are held", LONG)


async def test_it_grows_and_shrinks_with_its_process(lease: Make, objects: Objects) -> None:
    one = await lease("1/4").start()
    await one.run(COMPUTE)
    for size, gib, number in (("1/2", 40, 2), ("1", 80, 3), ("1/2", 40, 2), ("1/4", 20, 1)):
        assert await way(one, size) == ("in-place", ())
        assert await change(one, size)
        assert one.allocation.state in (State.ACTIVE, State.IDLE)
        await holds(one, size, gib)
        await eventually(lambda n=number: len(leases(objects)) == n, f"{number} leases", LONG)
        assert f" 10 {gib}" in await one.run(LOOK)
    assert await one.run("print(next(numbers))") == "5"
    for held_by in (pod for pod in objects("pods") if "-lease-" in pod["metadata"]["name"]):
        assert held_by["spec"]["activeDeadlineSeconds"] > 604800, "a week, as the kernel's pod"
    (pod,) = (pod for pod in objects("pods") if "-lease-" not in pod["metadata"]["name"])
    assert pod["metadata"]["annotations"]["gpu-share.jupyter.org/size"] == "1/4"
    told = await one.run("more = simulated.allocate('11GiB')")
    assert "memory" in told.lower()


async def test_less_than_it_uses_is_refused(lease: Make, objects: Objects) -> None:
    one = await lease("1/2").start()
    await one.run(COMPUTE)
    before = leases(objects)
    for tried in (way(one, "1/16"), change(one, "1/16")):
        with pytest.raises(NotPossible, match="uses 10 GiB of its GPU, which is more than 1/16"):
            await tried
    await holds(one, "1/2", 40)
    assert leases(objects) == before
    assert await one.run(LOOK) == "True 1 10 40"


async def test_where_both_sizes_have_no_room_it_leaves_its_gpu_for_a_moment(
    lease: Make, objects: Objects
) -> None:
    """The GPU is full, and 3/4 cannot become 1/2 by parts."""
    one, rest = lease("3/4"), lease("20GiB")
    await one.start()
    await rest.start()
    other = await lease("80GiB").start()  # so that all GPUs are full
    await one.run(COMPUTE)
    assert await way(one, "1/2") == ("in-place", ())
    assert await change(one, "1/2")
    await one.state("active", "idle")
    assert await one.run(LOOK) == "True 1 10 40"
    await held(80, 60)
    await other.close()


async def test_one_that_left_its_gpu_in_vain_comes_back_as_it_was_and_says_so(
    lease: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, rest = lease("3/4"), lease("20GiB")
    await one.start()
    await rest.start()
    await one.run(COMPUTE)

    async def refused(self: KernelObjects, size: Size) -> Any:
        raise EngineError("The API does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(KernelObjects, "change", refused)
        with pytest.raises(NotPossible, match=r"could not become 1/2: The API does not answer"):
            await change(one, "1/2")
    row = await one.state("active", "idle")
    assert row.share is not None
    assert (row.size, round(row.share.memory_bytes / GIB)) == ("3/4", 60)
    assert await one.run(LOOK) == "True 1 10 60"


async def test_without_room_on_its_gpu_it_moves_with_its_variables(lease: Make) -> None:
    one, rest = lease("1/2"), lease("40GiB")
    await one.start()
    await rest.start()
    await one.run("x = [1]; y = x; g = (n for n in range(3))")
    shares = [each.allocation.share for each in (one, rest)]
    if shares[0] and shares[1] and shares[0].devices != shares[1].devices:
        await rest.close()
        pytest.fail("the two lie on one GPU: the scheduler fills one before the next")
    with pytest.raises(NotPossible, match=r"would lose generator `g`"):
        await change(one, "3/4")
    await one.run("del g")
    assert await way(one, "3/4") == ("snapshot", ())
    assert await change(one, "3/4")
    assert "True" in await one.run("print(x is y)")
    row = await one.state("active", "idle")
    assert row.share is not None
    assert round(row.share.memory_bytes / GIB) == 60


async def test_while_its_share_is_away_the_next_one_has_the_size(
    lease: Make, objects: Objects
) -> None:
    one = await lease("1/2").start()
    await one.run(COMPUTE)
    await Runtime.instance().release(one.kernel_id, lose_variables=False)
    with pytest.raises(NotPossible, match="more than 1/16 has"):
        await change(one, "1/16")
    assert await change(one, "3/4")
    assert (one.allocation.state, one.allocation.size) == (State.RELEASED, "3/4")
    assert leases(objects) == []
    assert await one.run(LOOK) == "True 1 10 60"
    await holds(one, "3/4", 60)
    await one.manager.restart_kernel(now=True)
    look = "import os; print(round(eval(os.environ['JUPYTER_GPU_SHARE_FRACTION']), 2))"
    assert await one.run(look) == "0.75"


async def test_a_change_that_fails_half_way_leaves_what_was(
    lease: Make, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await lease("1/4").start()
    await one.run(COMPUTE)
    before = leases(objects)

    async def refused(self: KernelObjects, words: Any) -> None:
        raise EngineError("The API does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(KernelObjects, "annotate", refused)
        for size in ("1/2", "3/16"):
            with pytest.raises(NotPossible, match="The API does not answer"):
                await change(one, size)
            await holds(one, "1/4", 20)
            await eventually(lambda: leases(objects) == before, "no lease more", LONG)
    assert await one.run(LOOK) == "True 1 10 20"


async def test_others_who_are_faster_leave_it_as_it_is(
    lease: Make, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await lease("1/2").start()
    await one.run(COMPUTE)
    monkeypatch.setattr("jupyter_gpu_share.engines.kubernetes._lease._PATIENCE", 2.0)
    await lease("40GiB").start()
    plan = Lease.planned

    async def stale(self: Lease, held: Any, size: Size) -> Any:
        monkeypatch.setattr(self._backend, "free_on", lambda device, facts: 40 * GIB)
        return await plan(self, held, size)

    with monkeypatch.context() as patch:
        patch.setattr(Lease, "planned", stale)
        patch.setattr(Runtime, "fits", _always)
        with pytest.raises(NotPossible, match="Others were faster"):
            await change(one, "3/4")
    assert await one.run(LOOK) == "True 1 10 40"
    assert one.allocation.size == "1/2"
    await eventually(lambda: len(leases(objects)) == 2, "nobody waits any more", LONG)


async def _always(self: Runtime, kernel_id: str | None, size: Size) -> None:
    return None


@pytest.mark.parametrize("first", ["1/4", "1/2"])
def test_a_server_that_ends_in_the_middle_leaves_one_size(
    start: Any, cluster: Any, namespace: str, first: str
) -> None:
    """Both leases are there. What is written on the pod is what it holds afterwards."""
    place = f"/api/v1/namespaces/{namespace}/pods"
    server = start(style="lease")
    kernel_id = server.start_kernel("1/4")
    assert server.run_cell(kernel_id, COMPUTE) == ""
    server.ok(f"gpu-share/allocations/{kernel_id}", "PATCH", {"size": "1/2"})
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    # As it is before the new size is written, where the first is meant to count.
    (pod,) = (
        pod["metadata"]["name"]
        for pod in cluster.api.get(place)["items"]
        if "-lease-" not in pod["metadata"]["name"]
    )
    note = {"metadata": {"annotations": {"gpu-share.jupyter.org/size": first}}}
    cluster.api.patch(f"{place}/{pod}", note)
    again = start(style="lease")
    until(lambda: again.kernels(), "the kernel is listed")
    gib = {"1/4": 20, "1/2": 40}[first]
    assert again.run_cell(kernel_id, LOOK) == f"True 1 10 {gib}"
    row = again.ok(f"gpu-share/allocations/{kernel_id}")
    assert (row["size"], round(row["share"]["memory_bytes"] / GIB)) == (first, gib)

    def left() -> list[str]:
        return [
            each["metadata"]["name"]
            for each in cluster.api.get(place)["items"]
            if "-lease-" in each["metadata"]["name"]
        ]

    until(lambda: len(left()) == (1 if first == "1/4" else 2), "what is too much is let go")
    again.ok(f"api/kernels/{kernel_id}", "DELETE")


async def test_two_changes_at_once_end_with_one_of_them(lease: Make) -> None:
    one = await lease("1/4").start()
    await one.run(COMPUTE)
    results = await asyncio.gather(change(one, "1/2"), change(one, "3/4"), return_exceptions=True)
    assert any(result is True for result in results), results
    gib = {"1/2": 40, "3/4": 60}[one.allocation.size]
    await holds(one, one.allocation.size, gib)
    assert await one.run(LOOK) == f"True 1 10 {gib}"
