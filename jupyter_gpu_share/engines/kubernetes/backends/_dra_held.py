"""What ResourceClaims hold of a driver's devices. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .._names import KERNEL, label
from ._base import Object, dig
from ._dra_gpus import Gpu
from ._quantity import parse_quantity
from ._usable import DeviceKey

__all__ = ["held_by", "kernels_on", "results", "taken_of"]


def results(claims: Sequence[Object], driver: str) -> Iterator[tuple[Object, DeviceKey, Object]]:
    """What claims were allocated of a driver's devices: the claim, the device, and what of it."""
    for claim in claims:
        for result in dig(claim, "status", "allocation", "devices", "results", default=[]):
            if result.get("driver") == driver:
                yield claim, (result["pool"], result["device"]), result


def held_by(
    claims: Sequence[Object], driver: str, memory: str, known: Mapping[DeviceKey, Gpu]
) -> Iterator[tuple[Object, DeviceKey, int]]:
    """Bytes that each claim holds of each device; what has administrator access holds nothing."""
    for claim, key, result in results(claims, driver):
        if not result.get("adminAccess"):
            taken = dig(result, "consumedCapacity", memory)
            # All of a device that is not shared.
            whole = known[key].memory if key in known else 0
            yield claim, key, parse_quantity(taken) if taken is not None else whole


def taken_of(
    claims: Sequence[Object], driver: str, memory: str, known: Mapping[DeviceKey, Gpu]
) -> dict[DeviceKey, int]:
    """Bytes of each device that are not free.

    Of a GPU whose other capacities are used up further than its memory, so much of the memory is
    of no use to anybody, as each claim takes the same part of all.
    """
    taken: dict[DeviceKey, int] = {}
    for _, key, amount in held_by(claims, driver, memory, known):
        taken[key] = taken.get(key, 0) + amount
    others: dict[tuple[DeviceKey, str], int] = {}
    for _, key, result in results(claims, driver):
        if key in known and not result.get("adminAccess"):
            for name in known[key].others:
                told = dig(result, "consumedCapacity", name, default=0)
                others[key, name] = others.get((key, name), 0) + parse_quantity(told)
    for (key, name), amount in others.items():
        gpu = known[key]
        taken[key] = max(taken[key], -(-gpu.memory * amount // gpu.others[name].total))
    return taken


def kernels_on(
    claims: Sequence[Object], driver: str, memory: str, known: Mapping[DeviceKey, Gpu]
) -> dict[DeviceKey, int]:
    """How many have a share of each device; one may hold it by several claims.

    A kernel that rests has none.
    """
    held: dict[tuple[DeviceKey, str], int] = {}
    for claim, key, amount in held_by(claims, driver, memory, known):
        meta = claim["metadata"]
        whose = label(claim, KERNEL) or meta.get("uid") or meta["name"]
        owner = key, f"{meta.get('namespace')}/{whose}"
        held[owner] = held.get(owner, 0) + amount
    return Counter(
        key for (key, _), amount in held.items() if key not in known or amount > known[key].rest
    )
