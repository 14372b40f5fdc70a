"""DRA: claims on devices with consumable capacity, on MIG instances, and what is read of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, MIB, Shapes

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend, Facts
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("dra")
BACKEND = DraBackend()


def known(*names: str, **fields: Any) -> Facts:
    return Facts(slices=[getattr(SHAPES, name) for name in names], **fields)


def request(size: str, facts: Facts, **options: str) -> dict[str, Any]:
    """The only request of the claim that a size becomes."""
    (claim,) = DraBackend(options).render(Size.parse(size), facts).claims
    (found,) = claim.spec["devices"]["requests"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("size", "quantity", "note"),
    [
        ("1/4", "20Gi", ""),
        ("1/3", "26Gi", "1/3 becomes 26 GiB of an A100 (80 GiB)."),
        ("20GiB", "20Gi", ""),
        ("2500MiB", "3Gi", "2500MiB becomes 3 GiB of an A100 (80 GiB)."),
        ("1", "80Gi", ""),
    ],
)
def test_a_size_is_a_capacity_in_the_steps_of_the_device(
    size: str, quantity: str, note: str
) -> None:
    rendered = BACKEND.render(Size.parse(size), known("shared80"))
    (claim,) = rendered.claims
    assert claim.spec["devices"]["requests"] == [
        {
            "name": "gpu",
            "exactly": {
                "deviceClassName": "gpu.nvidia.com",
                "allocationMode": "ExactCount",
                "count": 1,
                "capacity": {"requests": {"memory": quantity}},
            },
        }
    ]
    assert "constraints" not in claim.spec["devices"]
    assert rendered.note == note


def test_several_gpus_are_different_ones() -> None:
    (claim,) = BACKEND.render(Size.parse("2x1/2"), known("shared80")).claims
    assert claim.spec["devices"]["requests"][0]["exactly"]["count"] == 2
    assert claim.spec["devices"]["constraints"] == [
        {"requests": ["gpu"], "distinctAttribute": "gpu.nvidia.com/uuid"}
    ]


def test_of_several_kinds_of_gpus_the_smallest_is_tried_first() -> None:
    rendered = BACKEND.render(Size.parse("1/4"), known("shared80", "shared40"))
    assert rendered.memory_bytes is None
    kinds = request("1/4", known("shared80", "shared40"))["firstAvailable"]
    amounts = [kind["capacity"]["requests"]["memory"] for kind in kinds]
    assert amounts == ["10Gi", "20Gi"]
    chosen = [kind["selectors"][0]["cel"]["expression"] for kind in kinds]
    memory = 'device.capacity["gpu.nvidia.com"].memory'
    assert chosen == [
        f'{memory}.compareTo(quantity("{40 * GIB}")) == 0',
        f'{memory}.compareTo(quantity("{80 * GIB}")) == 0',
    ]
    assert len({kind["name"] for kind in kinds}) == 2
    # Bytes are the same everywhere: any GPU that has as many will do.
    assert "exactly" in request("10GiB", known("shared80", "shared40"))


def test_a_lease_is_a_share_of_one_gpu() -> None:
    """The kernel's own claim beside it is for one device."""
    backend = DraBackend()
    backend.style = "lease"
    for size, facts in (("mig-1g.10gb", known("mig")), ("2x1/2", known("shared80"))):
        assert BACKEND.render(Size.parse(size), facts).claims
        with pytest.raises(NoGpuError, match="in style lease"):
            backend.render(Size.parse(size), facts)
    for size in ("1/4", "20GiB", "1"):
        assert backend.render(Size.parse(size), known("shared80")).claims


def test_whole_gpus_that_are_not_shared_are_asked_for_as_they_are() -> None:
    exactly = request("2x1", known("whole"))["exactly"]
    assert "capacity" not in exactly
    assert exactly["count"] == 2
    # Clusters that share no devices do not know how to hold them apart, and need not.
    for size, shape in (
        ("2x1", "whole"),
        ("2xmig-1g.10gb", "mig"),
        ("2xmig-1g.10gb", "dynamic_mig"),
    ):
        (claim,) = BACKEND.render(Size.parse(size), known(shape)).claims
        assert "constraints" not in claim.spec["devices"]
    with pytest.raises(NoGpuError, match="Ask for 1"):
        BACKEND.render(Size.parse("1/2"), known("whole"))


def test_a_profile_selects_instances() -> None:
    exactly = request("mig-1g.10gb", known("mig"))["exactly"]
    assert exactly["deviceClassName"] == "mig.nvidia.com"
    assert exactly["selectors"] == [
        {"cel": {"expression": 'device.attributes["gpu.nvidia.com"].profile == "1g.10gb"'}}
    ]
    with pytest.raises(NoGpuError, match=r"there are mig-1g\.10gb, mig-3g\.40gb"):
        BACKEND.render(Size.parse("mig-7g.80gb"), known("mig"))
    with pytest.raises(NoGpuError, match="no GPU of this cluster"):
        BACKEND.render(Size.parse("1/2"), known("mig"))


def test_more_than_any_gpu_has_is_refused_with_what_there_is() -> None:
    with pytest.raises(NoGpuError, match="the largest has 80 GiB"):
        BACKEND.render(Size.parse("81GiB"), known("shared80", "shared40"))


def test_a_server_that_may_not_read_slices_can_ask_for_bytes() -> None:
    blind = Facts(missing=frozenset({"resourceslices"}))
    exactly = request("10GiB", blind)["exactly"]
    assert exactly["capacity"]["requests"] == {"memory": "10Gi"}
    assert "exactly" in request("mig-1g.10gb", blind)
    with pytest.raises(NoGpuError, match="cluster-read"):
        BACKEND.render(Size.parse("1/4"), blind)


def test_names_of_another_driver_are_options() -> None:
    options = {"driver": "gpu.example.com", "device_class": "gpus", "capacity": "vram"}
    other = SHAPES.shared80
    other["spec"]["driver"] = "gpu.example.com"
    for device in other["spec"]["devices"]:
        device["capacity"] = {"vram": device["capacity"]["memory"]}
    exactly = request("1/4", Facts(slices=[other]), **options)["exactly"]
    assert exactly["deviceClassName"] == "gpus"
    assert exactly["capacity"]["requests"] == {"vram": "20Gi"}
    with pytest.raises(EngineError, match="has no option queue"):
        DraBackend({"queue": "a"})


steps = st.sampled_from([MIB, 64 * MIB, GIB])
memories = st.integers(8, 192).map(lambda gib: gib * GIB)


def one_gpu(memory: int, step: int, minimum: int) -> Facts:
    item = SHAPES.shared80
    item["spec"]["devices"] = item["spec"]["devices"][:1]
    capacity = item["spec"]["devices"][0]["capacity"]["memory"]
    capacity["value"] = str(memory)
    capacity["requestPolicy"]["validRange"] = {
        "min": str(minimum),
        "max": str(memory),
        "step": str(step),
    }
    return Facts(slices=[item])


@given(
    parts=st.lists(st.integers(1, 30), min_size=1, max_size=7),
    memory=memories,
    step=steps,
)
def test_fractions_of_one_gpu_fit_into_it(parts: list[int], memory: int, step: int) -> None:
    facts = one_gpu(memory, step, MIB)
    taken = 0
    for part in parts:
        rendered = BACKEND.render(Size(fraction=Fraction(part, sum(parts))), facts)
        assert rendered.memory_bytes is not None
        assert (rendered.memory_bytes - MIB) % step == 0 or rendered.memory_bytes == memory
        taken += rendered.memory_bytes
    assert taken <= memory


@given(
    asked=st.integers(1, 192 * GIB),
    memory=memories,
    step=steps,
    minimum=st.sampled_from([MIB, GIB]),
)
def test_memory_is_never_rounded_down(asked: int, memory: int, step: int, minimum: int) -> None:
    facts = one_gpu(memory, step, minimum)
    try:
        rendered = BACKEND.render(Size(memory=asked), facts)
    except NoGpuError:
        assert asked > memory - max(step, minimum)
        return
    amount = rendered.memory_bytes
    assert amount is not None
    assert asked <= amount <= memory
    assert amount < asked + step or amount == minimum
    assert bool(rendered.note) == (amount != asked)


def test_a_claim_that_was_allocated_is_a_share() -> None:
    share = BACKEND.granted({}, [SHAPES.claim], known("shared80"))
    assert share is not None
    assert share.memory_bytes == 20 * GIB
    assert share.fraction == Fraction(1, 4)
    assert share.isolation is Isolation.FRAMEWORK
    assert not share.simulated
    (device,) = share.devices
    assert (device.uuid, device.model, device.node) == (
        "GPU-0000",
        "NVIDIA A100-SXM4-80GB",
        "node-1",
    )
    assert BACKEND.totals(share, known("shared80")) == [80 * GIB]
    simulated = BACKEND.granted({}, [SHAPES.claim], known("simulated"))
    assert simulated is not None
    assert simulated.simulated


def test_administrator_access_is_no_share() -> None:
    assert BACKEND.granted({}, [SHAPES.admin], known("shared80")) is None
    assert BACKEND.device_of(SHAPES.admin) == ("node-1", "gpu-0")
    waiting = SHAPES.claim
    waiting["status"] = {}
    assert BACKEND.granted({}, [waiting], known("shared80")) is None
    assert BACKEND.device_of(waiting) is None


def test_an_instance_is_held_apart_by_hardware() -> None:
    claim = SHAPES.claim
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    del result["consumedCapacity"]
    result |= {"pool": "node-4", "device": "gpu-0-mig-1g10gb-0"}
    share = BACKEND.granted({}, [claim], known("mig"))
    assert share is not None
    assert (share.memory_bytes, share.isolation) == (9728 * MIB, Isolation.HARDWARE)


def test_what_is_free_counts_the_claims_of_all_namespaces() -> None:
    other = SHAPES.claim
    other["metadata"]["namespace"] = "others"
    facts = known("shared80", claims=[SHAPES.claim, other, SHAPES.admin])
    free = {gpu.uuid: (gpu.free_bytes, gpu.kernels) for gpu in BACKEND.capacity(facts)}
    assert free == {"GPU-0000": (40 * GIB, 2), "GPU-0001": (80 * GIB, 0)}
    assert BACKEND.room(Size.parse("1/2"), facts) == 2
    assert BACKEND.room(Size.parse("41GiB"), facts) == 1
    assert BACKEND.room(Size.parse("mig-1g.10gb"), facts) == 0


def test_the_scheduler_is_understood() -> None:
    words = "0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes …"
    assert BACKEND.explain(words) == "No GPU has that much free now."
    assert BACKEND.explain("waiting for resourceclaim to be allocated") is not None
    assert BACKEND.explain("0/1 nodes are available: 1 Insufficient cpu.") is None


def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    (good,) = BACKEND.examine(known("shared80", "whole"))
    assert good.what == "DRA offers 3 GPUs; 2 of them can be shared."
    told = BACKEND.examine(known("whole"))
    assert [finding.level for finding in told] == ["ok", "warning"]
    (nothing,) = BACKEND.examine(Facts())
    assert nothing.level == "error"
    (unread,) = BACKEND.examine(Facts(missing=frozenset({"resourceslices"})))
    assert "cluster-read" in str(unread.fix)
    classes = [{"metadata": {"name": "another"}}]
    wrong = BACKEND.examine(known("shared80", device_classes=classes))
    assert "gpu.nvidia.com" in wrong[-1].what
