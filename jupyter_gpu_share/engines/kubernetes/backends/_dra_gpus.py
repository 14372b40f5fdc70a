"""GPUs and MIG instances as DRA drivers publish them, and as declared kinds of nodes will. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from ....size import Size
from ._base import Object, dig
from ._kinds import Kind
from ._quantity import parse_quantity
from ._usable import DeviceKey, current

__all__ = ["Amounts", "Gpu", "gpus_of", "gpus_to_come"]

_MIB = 2**20
#: A kernel rests on a claim of at most so many bytes, or such a part of what there is. More is too
#: much to be held by each kernel that has given its share back.
_SMALL, _SMALL_PART = 16 * _MIB, 1000
#: So many kernels can rest on a GPU of which kernels have all the rest.
_RESTING = 16


@dataclass(frozen=True)
class Amounts:
    """What there is of a capacity, and the amounts in which a device gives it out.

    Attributes
    ----------
    least: the smallest amount.
    step: the others are so many more each; 0: any will do.
    values: the only amounts, ascending; empty: as ``least`` and ``step`` say.
    """

    total: int
    least: int = 0
    step: int = 0
    values: tuple[int, ...] = ()

    def up(self, amount: int) -> int:
        """The least amount that is given out and not less than this one."""
        if self.values:
            return next((value for value in self.values if value >= amount), amount)
        if amount <= self.least or self.step <= 0:
            return max(amount, self.least)
        steps = -((self.least - amount) // self.step)
        return self.least + steps * self.step

    def down(self, amount: int) -> int:
        """The largest amount that is given out and not more than this one, or the smallest."""
        if self.values:
            return max((value for value in self.values if value <= amount), default=self.values[0])
        if self.step > 0 and amount > self.least:
            amount = self.least + (amount - self.least) // self.step * self.step
        return max(amount, self.least)

    def part(self, fraction: Fraction) -> int:
        """What stands for a fraction: rounded down, so that three thirds fit."""
        return self.total if fraction == 1 else self.down(int(self.total * fraction))


@dataclass(frozen=True)
class Gpu:
    """A device of a ResourceSlice.

    Attributes
    ----------
    uuid: as its driver tells it, else its name.
    amounts: of its memory, in bytes.
    others: what else it gives out in parts, by the name of the capacity.
    named: whether its driver tells a uuid, by which a claim can name it.
    coming: declared, and not there yet: its memory is only about right.
    """

    pool: str
    name: str
    node: str
    uuid: str
    model: str
    amounts: Amounts
    shared: bool
    profile: str | None
    simulated: bool
    others: Mapping[str, Amounts] = field(default_factory=dict)
    named: bool = True
    coming: bool = False

    @property
    def key(self) -> DeviceKey:
        return self.pool, self.name

    @property
    def memory(self) -> int:
        """Bytes of all of it."""
        return self.amounts.total

    @cached_property
    def rest(self) -> int:
        """Bytes that a kernel's own claim holds beside its lease.

        0 where the device gives out no amount that is small enough: the kernel's claim then needs
        administrator access.
        """
        if not self.shared or self.coming or self.amounts.values:
            return 0
        rest, step = self.amounts.up(_MIB), self.amounts.step
        small = rest <= max(_SMALL, self.memory // _SMALL_PART) and all(
            each.up(0) * _SMALL_PART <= each.total for each in self.others.values()
        )
        # What is left for the lease has to be an amount that the device gives out.
        return rest if small and (step <= 0 or rest % step == 0) else 0

    def most(self, *, leased: bool) -> int:
        """Bytes that one kernel can have: not all, where others have to have room to rest."""
        if not leased or not self.rest:
            return self.memory
        return self.amounts.down(
            self.memory - max(self.memory // _SMALL_PART, _RESTING * self.rest)
        )

    def share(self, size: Size, *, leased: bool) -> int | None:
        """Bytes that a size is of it; None: it has not so much, or gives no parts.

        Parameters
        ----------
        leased: the share can go and come back: a kernel's own claim is a part of it.
        """
        if size.profile != self.profile or self.profile is not None:
            return self.memory if size.profile == self.profile else None
        most, rest = self.most(leased=leased), self.rest if leased else 0
        if size.memory is not None:
            amount = self.amounts.up(max(size.memory, 2 * rest))
            amount = most if most < amount <= self.memory else amount
        elif (fraction := size.fraction or Fraction(1)) == 1:
            amount = most
        else:
            amount = self.amounts.up(max(self.amounts.down(int(most * fraction)), 2 * rest))
        return amount if amount == self.memory or (self.shared and amount < self.memory) else None

    def beside(self, part: Fraction, *, leased: bool, more: bool = False) -> dict[str, int]:
        """The same part of all else that it gives out, by the name of the capacity.

        Parameters
        ----------
        leased: the kernel's own claim has the smallest amount of it already, and others have to
            have room to rest.
        more: it is held beside another lease of the same share.
        """
        part, resting = min(Fraction(1), part), leased and self.rest > 0
        found = {}
        for name, each in self.others.items():
            if resting and (least := each.up(0)):
                share = each.down(int((each.total - _RESTING * least) * part))
                found[name] = each.down(share if more else share - least)
            else:
                found[name] = each.part(part)
        return found


def gpus_of(slices: Iterable[Object], driver: str, memory: str) -> Iterator[Gpu]:
    """The devices of a driver that have a capacity named ``memory``."""
    for item in current(slices, driver):
        spec = item.get("spec") or {}
        for device in spec.get("devices") or []:
            capacities = device.get("capacity") or {}
            if memory not in capacities:
                continue
            profile = _attribute(device, driver, "profile")
            told = _attribute(device, driver, "uuid")
            uuid = str(told or device["name"])
            shared = bool(device.get("allowMultipleAllocations"))
            yield Gpu(
                pool=dig(spec, "pool", "name", default=""),
                name=device["name"],
                node=spec.get("nodeName") or "",
                uuid=uuid,
                model=str(_attribute(device, driver, "productName") or "GPU"),
                amounts=_amounts(capacities[memory]),
                shared=shared,
                profile=str(profile) if profile else None,
                simulated=bool(_attribute(device, driver, "simulated")) or uuid.startswith("SIM-"),
                others={
                    name: _amounts(capacity)
                    for name, capacity in capacities.items()
                    # Of a device that is not shared nothing is given out in parts.
                    if name != memory and shared and parse_quantity(capacity["value"]) > 0
                },
                named=bool(told),
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
            amounts=Amounts(kind.told.memory),
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


def _amounts(capacity: Object) -> Amounts:
    policy = capacity.get("requestPolicy") or {}
    given = policy.get("validRange") or {}
    return Amounts(
        total=parse_quantity(capacity["value"]),
        least=parse_quantity(given.get("min", 0)),
        step=parse_quantity(given.get("step", 0)),
        values=tuple(sorted(parse_quantity(value) for value in policy.get("validValues") or [])),
    )


def _attribute(device: Object, driver: str, name: str) -> Any:
    attributes = device.get("attributes") or {}
    value = attributes.get(name) or attributes.get(f"{driver}/{name}") or {}
    return next(iter(value.values()), None)
