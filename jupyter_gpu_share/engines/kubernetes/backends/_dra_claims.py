"""Requests of ResourceClaims, as the scheduler allocates them to a driver's devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ....size import Size
from ._dra_gpus import Gpu
from ._quantity import format_quantity

__all__ = ["REQUEST", "Requests"]

#: Name of the request within a claim.
REQUEST = "gpu"


@dataclass(frozen=True)
class Requests:
    """Writes the requests for devices of one driver.

    Attributes
    ----------
    driver, device_class, mig_class, capacity: names in the cluster, as the options of the backend.
    """

    driver: str
    device_class: str
    mig_class: str
    capacity: str

    def exactly(self, count: int, amounts: Mapping[str, int] | None) -> dict[str, Any]:
        """For a number of devices, and amounts of each by the name of the capacity."""
        part: dict[str, Any] = {
            "deviceClassName": self.device_class,
            "allocationMode": "ExactCount",
            "count": count,
        }
        if amounts is not None:
            quantities = {name: format_quantity(amount) for name, amount in amounts.items()}
            part["capacity"] = {"requests": quantities}
        return part

    def instances(self, size: Size) -> dict[str, Any]:
        """For MIG instances of a profile."""
        expression = f'device.attributes["{self.driver}"].profile == "{size.profile}"'
        return {
            "deviceClassName": self.mig_class,
            "allocationMode": "ExactCount",
            "count": size.count,
            "selectors": [{"cel": {"expression": expression}}],
        }

    def apart(self) -> dict[str, Any]:
        """That no two devices of a claim are the same one."""
        return {"requests": [REQUEST], "distinctAttribute": f"{self.driver}/uuid"}

    def of_memory(self, gpu: Gpu) -> dict[str, Any]:
        """Selects devices that have as much memory as this one."""
        name = f'device.capacity["{self.driver}"].{self.capacity}'
        expression = f'{name}.compareTo(quantity("{gpu.memory}")) == 0'
        if gpu.coming:
            least, most = gpu.memory * 19 // 20, gpu.memory * 21 // 20
            expression = (
                f'{name}.compareTo(quantity("{least}")) >= 0 && '
                f'{name}.compareTo(quantity("{most}")) <= 0'
            )
        return {"cel": {"expression": expression}}

    def pinned(self, gpu: Gpu, amounts: Mapping[str, int] | None) -> dict[str, Any]:
        """For this device alone."""
        expression = f'device.attributes["{self.driver}"].uuid == "{gpu.uuid}"'
        return {**self.exactly(1, amounts), "selectors": [{"cel": {"expression": expression}}]}

    def lease(self, gpu: Gpu, amount: int, size: Size | None) -> dict[str, Any]:
        """For so many bytes of one device.

        Parameters
        ----------
        size: what they are beside the kernel's own claim; None: they are more of the same share.
        """
        if size is None:
            part = Fraction(amount, gpu.memory)
        else:
            part = size.fraction or Fraction(amount + gpu.rest, gpu.memory)
        others = gpu.beside(part, leased=True, more=size is None)
        return self.pinned(gpu, {self.capacity: amount, **others} if gpu.shared else None)

    def own(self, gpu: Gpu) -> dict[str, Any]:
        """For a kernel's own claim on the device of its lease: the smallest amount of everything.

        Where that is too much to be held by a kernel that has given its share back, the claim has
        administrator access and is not counted. It too names an amount: a request without one is
        taken for the whole device, and must be free at the moment of allocation.
        """
        least = {name: each.up(0) for name, each in gpu.others.items()}
        least[self.capacity] = gpu.rest or max(1, gpu.amounts.up(0))
        part = self.pinned(gpu, least if gpu.shared else None)
        return part if gpu.rest else {**part, "adminAccess": True}

    def amounts(
        self, gpus: Sequence[Gpu], size: Size, amount: int, *, leased: bool = False
    ) -> dict[str, int]:
        """What a claim of a size asks of any of these GPUs, by the name of the capacity.

        Of all else that they give out in parts it asks for the same part, and for the least of
        what this is on each: more would take it from those who have the rest of the memory.

        Parameters
        ----------
        amount: the bytes that the size is of each.
        leased: they are of the kernel's own claim too.
        """
        there = [gpu for gpu in gpus if not gpu.coming]
        names = set.intersection(*(set(gpu.others) for gpu in there)) if there else set()
        others = [
            gpu.beside(size.fraction or Fraction(amount, gpu.memory), leased=leased)
            for gpu in (there if names else ())
        ]
        # Of one that is to come it is not known.
        own = min((gpu.rest for gpu in there), default=0) if leased else 0
        return {
            self.capacity: amount - own,
            **{name: min(each[name] for each in others) for name in sorted(names)},
        }
