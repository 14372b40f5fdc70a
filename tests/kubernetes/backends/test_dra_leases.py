"""DRA in style lease: what a kernel rests on, what its lease holds, and what is left for others."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes

from jupyter_gpu_share.engines.base import Waiter
from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._names import KERNEL, PART, PREFIX
from jupyter_gpu_share.engines.kubernetes._shares import share_of_pods
from jupyter_gpu_share.engines.kubernetes._snapshot import ClusterSnapshot
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend, Facts
from jupyter_gpu_share.engines.kubernetes.backends._quantity import parse_quantity
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("dra")
UUID = 'device.attributes["gpu.nvidia.com"].uuid'
FIRST = ("node-5", "gpu-0")


def known(*names: str, **fields: Any) -> Facts:
    return Facts(slices=[getattr(SHAPES, name) for name in names], **fields)


def leasing(**options: str) -> DraBackend:
    backend = DraBackend(options)
    backend.style = "lease"
    return backend


def exactly(spec: dict[str, Any]) -> dict[str, Any]:
    (request,) = spec["devices"]["requests"]
    found: dict[str, Any] = request["exactly"]
    return found


def asked(spec: dict[str, Any]) -> dict[str, int]:
    requests = exactly(spec)["capacity"]["requests"]
    return {name: parse_quantity(amount) for name, amount in requests.items()}


def holding(kernel: str, amount: int, *, of: tuple[str, str] = FIRST, part: str = "lease") -> Any:
    """A claim of a kernel that was allocated so many bytes."""
    claim = SHAPES.claim
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    result |= {"pool": of[0], "device": of[1], "consumedCapacity": {"memory": str(amount)}}
    claim["metadata"] |= {"name": f"{kernel}-{part}", "labels": {KERNEL: kernel, PART: part}}
    return claim


def kernel(name: str, size: str, facts: Facts, *, away: bool = False) -> list[Any]:
    """The claims of a kernel on the first GPU; its share may be away."""
    spec, _, _ = leasing().claim_spec(Size.parse(size), facts)
    own = holding(name, asked(leasing().own_spec(FIRST, facts))["memory"], part="claim")
    return [own] if away else [own, holding(name, asked(spec)["memory"])]


def test_a_kernel_rests_on_the_smallest_amount_and_its_lease_holds_the_rest() -> None:
    backend, facts = leasing(), known("nvidia80")
    own = exactly(backend.own_spec(FIRST, facts))
    assert "adminAccess" not in own
    assert own["capacity"] == {"requests": {"memory": "1Mi"}}
    assert own["selectors"] == [{"cel": {"expression": f'{UUID} == "GPU-0050"'}}]
    spec, memory, note = backend.claim_spec(Size.parse("20GiB"), facts)
    assert (memory, note) == (20 * GIB, "")
    assert asked(spec) == {"memory": 20 * GIB - MIB}
    again = exactly(backend.lease_spec(20 * GIB - MIB, FIRST, facts, Size.parse("20GiB")))
    assert again["capacity"] == exactly(spec)["capacity"]
    assert again["selectors"] == own["selectors"]
    assert not backend.privileged(facts)


def test_where_the_smallest_amount_is_large_the_claim_is_the_administrators() -> None:
    backend, facts = leasing(), known("shared80")
    own = exactly(backend.own_spec(("node-1", "gpu-1"), facts))
    assert own["adminAccess"] is True
    assert own["capacity"] == {"requests": {"memory": "1Gi"}}
    assert own["selectors"] == [{"cel": {"expression": f'{UUID} == "GPU-0001"'}}]
    spec, memory, _ = backend.claim_spec(Size.parse("1"), facts)
    assert asked(spec) == {"memory": memory} == {"memory": 80 * GIB}
    assert backend.privileged(facts) == ["NVIDIA A100-SXM4-80GB"]
    assert backend.privileged(known("nvidia80", "whole")) == ["NVIDIA H100 80GB HBM3"]


def test_a_part_of_a_gpu_that_has_few_parts_is_too_much_to_rest_on() -> None:
    """With consumableShares=10 each claim takes one of ten parts at least."""
    own = exactly(leasing().own_spec(("node-6", "gpu-0"), known("nvidia_parts")))
    assert own["adminAccess"] is True
    assert own["capacity"]["requests"]["shares"] == "1"


@pytest.mark.parametrize(("size", "cores"), [("1/4", 25), ("1", 100), ("20GiB", 25)])
def test_a_fraction_is_the_same_of_all_else(size: str, cores: int) -> None:
    slices = SHAPES.nvidia80
    for device in slices["spec"]["devices"]:
        device["capacity"]["cores"] = SHAPES.hami["spec"]["devices"][0]["capacity"]["cores"]
    backend, facts, wanted = leasing(), Facts(slices=[slices]), Size.parse(size)
    spec, memory, _ = backend.claim_spec(wanted, facts)
    assert memory is not None
    assert asked(spec)["cores"] == cores
    assert asked(backend.own_spec(FIRST, facts)) == {"memory": MIB, "cores": 0}
    again = backend.lease_spec(memory - MIB, FIRST, facts, wanted)
    assert asked(again) == asked(spec)
    # One more, beside what there is: no more than the same part.
    more = asked(backend.lease_spec(20 * GIB, FIRST, facts))
    assert more == {"memory": 20 * GIB, "cores": 25}


def test_what_a_kernel_rests_on_is_a_part_of_all_else_too() -> None:
    slices = SHAPES.nvidia80
    policy = {"default": "4000", "validRange": {"min": "1", "max": "4000", "step": "1"}}
    for device in slices["spec"]["devices"]:
        device["capacity"]["threads"] = {"value": "4000", "requestPolicy": policy}
    backend, facts = leasing(), Facts(slices=[slices])
    spec, _, _ = backend.claim_spec(Size.parse("1/4"), facts)
    # 16 kernels can rest on one that others have all the rest of: a quarter of 3984.
    assert asked(spec)["threads"] == 995
    assert asked(backend.own_spec(FIRST, facts))["threads"] == 1
    assert asked(backend.lease_spec(20 * GIB, FIRST, facts))["threads"] == 996, "it rests already"


@given(
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    resting=st.integers(0, 9),
    least=st.integers(0, 50),
    total=st.integers(50_000, 200_000),
)
def test_of_all_else_too_kernels_fit_beside_those_that_rest(
    parts: list[int], resting: int, least: int, total: int
) -> None:
    facts, backend = one_gpu(80 * GIB, MIB, MIB), leasing()
    policy = {"validRange": {"min": str(least), "max": str(total), "step": "1"}}
    (device,) = facts.slices[0]["spec"]["devices"]
    device["capacity"]["threads"] = {"value": str(total), "requestPolicy": policy}
    rest = asked(backend.own_spec(FIRST, facts))["threads"]
    assert rest == least
    taken = resting * rest
    for number, part in enumerate(parts):
        size = Size(fraction=Fraction(part, sum(parts)))
        spec, memory, _ = backend.claim_spec(size, facts)
        held = asked(spec)["threads"]
        assert asked(backend.lease_spec(memory - MIB, FIRST, facts, size))["threads"] == held
        if number == 0 and memory > 4 * GIB:  # one that has grown holds it by two claims
            small = Size(memory=2 * GIB)
            held = asked(backend.lease_spec(2 * GIB - MIB, FIRST, facts, small))["threads"]
            held += asked(backend.lease_spec(memory - 2 * GIB, FIRST, facts))["threads"]
        taken += held + rest
    assert taken <= total


def test_a_kind_that_may_come_makes_no_share_larger() -> None:
    """Four kernels of a quarter in bytes are all of a GPU, whatever else may come."""
    kinds = KubernetesEngine(kinds=[{"memory": "141GiB", "node_selector": {"p": "b"}}]).declared
    facts = known("nvidia80", kinds=kinds)
    spec, memory, _ = leasing().claim_spec(Size.parse("20GiB"), facts)
    assert (memory, asked(spec)) == (20 * GIB, {"memory": 20 * GIB - MIB})


@pytest.mark.parametrize("size", ["40GiB", "1/2", "1", "80GiB", "12GiB"])
def test_where_gpus_differ_each_is_asked_for_what_it_is_reckoned_with(size: str) -> None:
    """Else a kernel waits for a GPU that seems to have room for it."""
    small = SHAPES.nvidia80
    small["spec"]["nodeName"] = small["spec"]["pool"]["name"] = "node-8"
    for device in small["spec"]["devices"]:
        device["attributes"]["uuid"]["string"] += "-small"
        device["capacity"]["memory"]["value"] = "40960Mi"
    backend, wanted = leasing(), Size.parse(size)
    facts = Facts(slices=[SHAPES.nvidia80, small])
    spec, _, _ = backend.claim_spec(wanted, facts)
    (request,) = spec["devices"]["requests"]
    ways = request.get("firstAvailable") or [request["exactly"]]
    for gpu in backend.capacity(facts):
        needed = backend.need(wanted, gpu, facts)
        if needed > gpu.memory_bytes:
            continue
        amounts = [
            parse_quantity(way["capacity"]["requests"]["memory"])
            for way in ways
            if all(str(gpu.memory_bytes) in str(each) for each in way.get("selectors", []))
        ]
        assert amounts == [needed - MIB]


def test_fractions_and_all_of_a_gpu_leave_room_to_rest() -> None:
    backend, facts = leasing(), known("nvidia80")
    for size, bytes_ in (("1/4", 20459 * MIB), ("1", 81838 * MIB), ("80GiB", 81838 * MIB)):
        spec, memory, note = backend.claim_spec(Size.parse(size), facts)
        assert memory == bytes_
        assert asked(spec) == {"memory": bytes_ - MIB}
        assert note.startswith(f"{size} becomes ")
        assert backend.amount_on(Size.parse(size), FIRST, facts) == bytes_
    with pytest.raises(NoGpuError, match="the largest has 80 GiB"):
        backend.claim_spec(Size.parse("81GiB"), facts)


memories = st.integers(8 * 1024, 192 * 1024).map(lambda mib: mib * MIB)


def one_gpu(memory: int, minimum: int, step: int) -> Facts:
    item = SHAPES.nvidia80
    item["spec"]["devices"] = item["spec"]["devices"][:1]
    policy = {"min": str(minimum), "max": str(memory), "step": str(step)}
    capacity = {"value": str(memory), "requestPolicy": {"validRange": policy}}
    item["spec"]["devices"][0]["capacity"]["memory"] = capacity
    return Facts(slices=[item])


@given(
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    resting=st.integers(0, 9),
    memory=memories,
    minimum=st.sampled_from([0, MIB, 2 * MIB, 8 * MIB]),
    factor=st.integers(0, 3),
)
def test_kernels_of_all_fractions_fit_beside_those_that_rest(
    parts: list[int], resting: int, memory: int, minimum: int, factor: int
) -> None:
    step = minimum // factor if factor else 0
    facts, backend = one_gpu(memory, minimum, step), leasing()
    own = exactly(backend.own_spec(FIRST, facts))
    if "adminAccess" in own:
        assert step and minimum % step
        return
    rest = asked(backend.own_spec(FIRST, facts))["memory"]
    assert minimum <= rest <= max(16 * MIB, memory // 1000)
    taken = resting * rest
    for part in parts:
        spec, total, _ = backend.claim_spec(Size(fraction=Fraction(part, sum(parts))), facts)
        lease = asked(spec)["memory"]
        assert lease + rest == total
        for amount in (lease, total):  # as the scheduler would take it
            assert amount >= minimum
            assert not step or (amount - minimum) % step == 0
        taken += total
    assert taken <= memory


@given(amount=st.integers(1, 192 * GIB), memory=memories)
def test_bytes_are_bytes_unless_they_are_all(amount: int, memory: int) -> None:
    backend, facts = leasing(), one_gpu(memory, MIB, MIB)
    try:
        _, total, note = backend.claim_spec(Size(memory=amount), facts)
    except NoGpuError:
        assert amount > memory
        return
    assert total is not None
    assert total >= amount or total >= memory - max(memory // 1000, 16 * MIB) - MIB
    assert bool(note) == (total != amount)


def test_a_share_that_is_back_is_free_for_the_next_but_for_what_its_kernel_rests_on() -> None:
    facts = known("nvidia80")
    four = [kernel(name, "1/4", facts) for name in "abcd"]
    full = Facts(slices=facts.slices, claims=[*chain(*four)])
    backend = leasing()
    gpu, _ = backend.capacity(full)
    assert gpu.kernels == 4
    assert backend.room(Size.parse("1/4"), full) == 1, "the other GPU"
    four[0] = kernel("a", "1/4", facts, away=True)
    freed = Facts(slices=facts.slices, claims=[*chain(*four)])
    gpu, _ = backend.capacity(freed)
    assert gpu.kernels == 3
    assert backend.room(Size.parse("1/4"), freed) == 2
    alone = Facts(slices=facts.slices, claims=kernel("a", "1", facts, away=True))
    assert backend.room(Size.parse("1"), alone) == 2


def test_who_waits_is_seen_to_be_served_by_a_share_that_leaves_its_kernel_behind() -> None:
    facts = known("nvidia80")
    facts.slices[0]["spec"]["devices"].pop()
    claims = kernel("a", "1", facts)
    snapshot = ClusterSnapshot(
        waiting=(Waiter("b", Size.parse("1")),),
        backend=leasing(),
        facts=Facts(slices=facts.slices, claims=claims),
        namespace="notebooks",
        held={"a": frozenset({"a-lease"})},
    )
    assert snapshot.served([]) == frozenset()
    assert snapshot.served(["a"]) == {0}


def test_the_share_is_what_both_claims_hold() -> None:
    facts = known("nvidia80")
    share = leasing().granted({}, kernel("a", "20GiB", facts), facts)
    assert share is not None
    assert share.memory_bytes == 20 * GIB


def pods(style: str) -> dict[str, Any]:
    meta = {"name": "k", "labels": {KERNEL: "a"}, "annotations": {f"{PREFIX}style": style}}
    return {"k": {"metadata": meta}}


def test_what_a_kernel_rests_on_is_no_share() -> None:
    facts = known("nvidia80")
    own, lease = kernel("a", "1/4", facts)
    other = kernel("b", "1/4", facts)[1]

    def allocated(claim: Any) -> bool:
        return bool(claim["status"])

    def share(style: str, **claims: Any) -> list[Any]:
        return share_of_pods(pods(style), claims, allocated).get("k", [])

    names = {"k-gpu": own, "base-lease-1": lease, "other-lease-1": other}
    assert share("lease", **names) == [lease, own]
    assert share("lease", **{"k-gpu": own}) == []
    waiting = {**lease, "status": {}}
    assert share("lease", **{"k-gpu": own, "base-lease-1": lease, "base-lease-2": waiting}) == []
    assert share("pod", **{"k-gpu": own}) == [own]


def test_a_server_that_may_not_read_slices_cannot_lease() -> None:
    blind = Facts(missing=frozenset({"resourceslices"}))
    assert DraBackend().render(Size.parse("10GiB"), blind).claims
    with pytest.raises(NoGpuError, match=r"Have the administrator apply .*cluster-read"):
        leasing().render(Size.parse("10GiB"), blind)


def test_a_gpu_whose_driver_tells_no_uuid_cannot_be_leased() -> None:
    facts = known("nvidia80")
    for device in facts.slices[0]["spec"]["devices"]:
        del device["attributes"]["uuid"]
    assert DraBackend().render(Size.parse("1/4"), facts).claims
    with pytest.raises(NoGpuError, match="no GPU of this cluster"):
        leasing().render(Size.parse("1/4"), facts)
