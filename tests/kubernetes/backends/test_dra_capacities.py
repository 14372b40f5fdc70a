"""DRA: capacities besides memory, and drivers other than NVIDIA's."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import GIB, Shapes

from jupyter_gpu_share.allocations import Isolation
from jupyter_gpu_share.engines.kubernetes.backends import DraBackend, Facts, make_backend
from jupyter_gpu_share.engines.kubernetes.backends._dra_gpus import Amounts
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("dra")
HAMI = "hami-core-gpu.project-hami.io"


def hami(**fields: Any) -> Facts:
    return Facts(slices=[SHAPES.hami], **fields)


def request(size: str, facts: Facts, driver: str = HAMI) -> dict[str, str]:
    (claim,) = DraBackend({"driver": driver}).render(Size.parse(size), facts).claims
    (found,) = claim.spec["devices"]["requests"]
    amounts: dict[str, str] = found["exactly"]["capacity"]["requests"]
    return amounts


def taken(memory: str, cores: int, device: str = "hami-gpu-0") -> Any:
    claim = SHAPES.claim
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    result |= {"driver": HAMI, "pool": "node-7", "device": device}
    result["consumedCapacity"] = {"memory": memory, "cores": str(cores)}
    return claim


def test_of_every_capacity_the_same_part_is_asked_for() -> None:
    """Who does not name one takes all of it, and leaves the rest of the memory to nobody."""
    assert request("1/4", hami()) == {"memory": "20Gi", "cores": "25"}
    assert request("10GiB", hami()) == {"memory": "10Gi", "cores": "12"}
    assert request("1", hami()) == {"memory": "80Gi", "cores": "100"}
    assert request("2x1/2", hami()) == {"memory": "40Gi", "cores": "50"}
    parts = Facts(slices=[SHAPES.nvidia_parts])
    assert request("1/4", parts, "gpu.nvidia.com") == {"memory": "20Gi", "shares": "2"}
    assert request("1GiB", parts, "gpu.nvidia.com") == {"memory": "1Gi", "shares": "1"}


def test_where_gpus_differ_the_least_is_asked_for() -> None:
    """More would take it from those who have the rest of the memory."""
    small = SHAPES.hami
    small["spec"]["nodeName"] = small["spec"]["pool"]["name"] = "small"
    for device in small["spec"]["devices"]:
        device["capacity"]["memory"]["value"] = "40Gi"
    both = Facts(slices=[SHAPES.hami, small])
    assert request("20GiB", both) == {"memory": "20Gi", "cores": "25"}
    for device in small["spec"]["devices"]:
        del device["capacity"]["cores"]
    # A device that has not what is asked for is passed over.
    assert request("20GiB", Facts(slices=[SHAPES.hami, small])) == {"memory": "20Gi"}


@given(parts=st.lists(st.integers(1, 30), min_size=1, max_size=7))
def test_fractions_of_everything_fit_into_one_gpu(parts: list[int]) -> None:
    facts, backend = hami(), DraBackend({"driver": HAMI})
    cores = 0
    for part in parts:
        rendered = backend.render(Size(fraction=Fraction(part, sum(parts))), facts)
        requests = rendered.claims[0].spec["devices"]["requests"][0]["exactly"]["capacity"]
        cores += int(requests["requests"]["cores"])
    assert cores <= 100


def test_what_is_left_of_a_gpu_is_what_is_left_of_all_its_capacities() -> None:
    backend = DraBackend({"driver": HAMI})
    greedy = hami(claims=[taken("20Gi", 100)])
    assert [gpu.free_bytes for gpu in backend.capacity(greedy)] == [0, 80 * GIB]
    assert backend.room(Size.parse("1/4"), greedy) == 1
    assert backend.free_on(("node-7", "hami-gpu-0"), greedy) == 0
    fair = hami(claims=[taken("20Gi", 25)])
    assert [gpu.free_bytes for gpu in backend.capacity(fair)] == [60 * GIB, 80 * GIB]
    assert backend.room(Size.parse("3/4"), fair) == 2
    half = hami(claims=[taken("20Gi", 50)])
    assert backend.capacity(half)[0].free_bytes == 40 * GIB


def test_hamis_library_holds_a_part_to_its_claim_and_so_nothing_is_leased() -> None:
    backend = DraBackend({"driver": HAMI})
    share = backend.granted({}, [taken("20Gi", 25)], hami())
    assert share is not None
    assert share.isolation is Isolation.PRELOAD
    whole = backend.granted({}, [taken("80Gi", 100)], hami())
    assert whole is not None
    assert whole.isolation is Isolation.NONE
    with pytest.raises(EngineError, match="holds a kernel to the memory of the kernel's own claim"):
        make_backend("dra", {"driver": HAMI}, "lease")
    assert make_backend("dra", {"driver": HAMI}, "pod").style == "pod"
    assert make_backend("dra", {}, "lease").style == "lease"
    with pytest.raises(EngineError, match="cannot hold shares in style 'annotation'; it has pod"):
        make_backend("dra", {}, "annotation")


def test_parts_that_cannot_be_held_apart_are_refused() -> None:
    slices = SHAPES.nvidia80
    for device in slices["spec"]["devices"]:
        del device["attributes"]["uuid"]
    with pytest.raises(NoGpuError, match="tells no uuid"):
        DraBackend().render(Size.parse("2x1/2"), Facts(slices=[slices]))
    assert DraBackend().render(Size.parse("1/2"), Facts(slices=[slices])).claims


def test_amounts_may_be_listed() -> None:
    listed = Amounts(100, values=(10, 25, 50, 100))
    assert [listed.up(amount) for amount in (0, 10, 11, 99)] == [10, 10, 25, 100]
    assert [listed.down(amount) for amount in (0, 10, 24, 100)] == [10, 10, 10, 100]
    slices = SHAPES.nvidia80
    for device in slices["spec"]["devices"]:
        policy = {"default": "80Gi", "validValues": ["10Gi", "20Gi", "40Gi", "80Gi"]}
        device["capacity"]["memory"] = {"value": "80Gi", "requestPolicy": policy}
    facts = Facts(slices=[slices])
    assert request("11GiB", facts, "gpu.nvidia.com") == {"memory": "20Gi"}
    assert request("1/3", facts, "gpu.nvidia.com") == {"memory": "20Gi"}


@given(
    total=st.integers(1, 10**6), least=st.integers(0, 100), step=st.integers(0, 50), data=st.data()
)
def test_amounts_are_given_out_as_the_scheduler_rounds_them(
    total: int, least: int, step: int, data: st.DataObject
) -> None:
    amount = data.draw(st.integers(0, total))
    amounts = Amounts(total, least, step)
    for given_out in (amounts.up(amount), amounts.down(amount)):
        assert given_out >= least
        assert not step or (given_out - least) % step == 0
    assert amount <= amounts.up(amount) < max(amount, least) + max(step, 1)
    assert amounts.down(amount) <= max(amount, least)
