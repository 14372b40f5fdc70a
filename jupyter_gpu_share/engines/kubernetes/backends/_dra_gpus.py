"""GPUs and MIG instances as DRA drivers publish them, and as declared kinds of nodes will. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ._base import Object, dig
from ._kinds import Kind
from ._quantity import parse_quantity
from ._usable import DeviceKey, current

__all__ = ["Gpu", "gpus_of", "gpus_to_come"]


@dataclass(frozen=True)
class Gpu:
    """A device of a ResourceSlice."""

    pool: str
    name: str
    node: str
    uuid: str
    model: str
    memory: int
    minimum: int
    step: int
    shared: bool
    profile: str | None
    simulated: bool
    #: Declared, and not there yet: its memory is only about right.
    coming: bool = False

    @property
    def key(self) -> DeviceKey:
        return self.pool, self.name

    def rounded(self, amount: int) -> int:
        """The least amount that the device gives out and that holds ``amount``."""
        if amount <= self.minimum or self.step <= 0:
            return max(amount, self.minimum)
        steps = -((self.minimum - amount) // self.step)
        return self.minimum + steps * self.step

    def part(self, fraction: Fraction) -> int:
        """Bytes that stand for a fraction: rounded down, so that three thirds fit."""
        if fraction == 1:
            return self.memory
        amount = int(self.memory * fraction)
        if self.step > 0 and amount > self.minimum:
            amount = self.minimum + (amount - self.minimum) // self.step * self.step
        return max(amount, self.minimum)


def gpus_of(slices: Iterable[Object], driver: str, memory: str) -> Iterator[Gpu]:
    """The devices of a driver that have a capacity named ``memory``."""
    for item in current(slices, driver):
        spec = item.get("spec") or {}
        for device in spec.get("devices") or []:
            capacity = dig(device, "capacity", memory)
            if capacity is None:
                continue
            policy = dig(capacity, "requestPolicy", "validRange", default={})
            profile = _attribute(device, driver, "profile")
            uuid = str(_attribute(device, driver, "uuid") or device["name"])
            yield Gpu(
                pool=dig(spec, "pool", "name", default=""),
                name=device["name"],
                node=spec.get("nodeName") or "",
                uuid=uuid,
                model=str(_attribute(device, driver, "productName") or "GPU"),
                memory=parse_quantity(capacity["value"]),
                minimum=parse_quantity(policy.get("min", 0)),
                step=parse_quantity(policy.get("step", 0)),
                shared=bool(device.get("allowMultipleAllocations")),
                profile=str(profile) if profile else None,
                simulated=bool(_attribute(device, driver, "simulated")) or uuid.startswith("SIM-"),
            )


def gpus_to_come(kinds: Iterable[Kind], there: Sequence[Gpu]) -> list[Gpu]:
    """One of each kind of which no GPU is there: a declared memory is about what a driver tells."""
    return [
        Gpu(
            pool="",
            name="",
            node="",
            uuid="",
            model=kind.told.model or "GPU",
            memory=kind.told.memory,
            minimum=0,
            step=0,
            shared=kind.told.profile is None and kind.told.sharing != "none",
            profile=kind.told.profile,
            simulated=False,
            coming=True,
        )
        for kind in kinds
        if not any(
            gpu.profile == kind.told.profile
            and abs(gpu.memory - kind.told.memory) * 20 <= kind.told.memory
            for gpu in there
        )
    ]


def _attribute(device: Object, driver: str, name: str) -> Any:
    attributes = device.get("attributes") or {}
    value = attributes.get(name) or attributes.get(f"{driver}/{name}") or {}
    return next(iter(value.values()), None)
