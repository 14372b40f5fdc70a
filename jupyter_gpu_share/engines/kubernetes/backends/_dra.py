"""Dynamic Resource Allocation: devices with consumable capacity, and MIG instances by selector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

from ....allocations import Device, Isolation, Share
from ....errors import NoGpuError
from ....size import Size, format_bytes
from ...base import Capacity, Finding
from ._base import Backend, Claim, Facts, Object, Rendered, dig
from ._dra_gpus import Gpu, gpus_of, gpus_to_come
from ._kinds import placement_among
from ._nodes import a_model
from ._quantity import format_quantity, parse_quantity
from ._usable import DeviceKey, Placement, blocked, current

__all__ = ["DraBackend"]

#: Name of the request within a claim, and of the claim within a pod.
_REQUEST, _CLAIM = "gpu", "gpu"
#: So many alternatives may a request have.
_ALTERNATIVES = 8
_GROUP = "resource.k8s.io/v1"


class DraBackend(Backend):
    """Shares as ResourceClaims on devices whose memory is a consumable capacity.

    In style ``pod`` the kernel's pod uses the claim. In style ``lease`` a tiny pod holds it, and
    the kernel's pod uses the device through a claim with administrator access.
    """

    name: ClassVar[str] = "dra"
    styles: ClassVar[tuple[str, ...]] = ("pod", "lease")
    options: ClassVar[Mapping[str, str]] = {
        "driver": "Name of the DRA driver. Default gpu.nvidia.com.",
        "device_class": "DeviceClass of whole GPUs. Default: as the driver.",
        "mig_class": "DeviceClass of MIG instances. Default mig.nvidia.com.",
        "capacity": "Name of the capacity that is memory. Default memory.",
    }

    reads: ClassVar[frozenset[str]] = frozenset(
        {"deviceclasses", "resourceslices", "resourceclaims"}
    )
    uses: ClassVar[frozenset[str]] = frozenset({"nodes"})

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self.driver = chosen.get("driver", "gpu.nvidia.com")
        self.device_class = chosen.get("device_class", self.driver)
        self.mig_class = chosen.get("mig_class", "mig.nvidia.com")
        self.capacity_name = chosen.get("capacity", "memory")
        self._slices: Sequence[Object] = ()
        self._known: dict[tuple[str, str], Gpu] = {}

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether there are devices of NVIDIA's kind behind the API of this group."""
        return _GROUP in facts.groups and any(
            dig(item, "spec", "driver") == "gpu.nvidia.com" for item in facts.slices
        )

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        if self.style == "lease" and (size.profile is not None or size.count > 1):
            # The kernel's claim with administrator access is for one device, and drivers refuse
            # such access to an instance.
            raise NoGpuError(
                f"{size} cannot be had in style lease: only a share of one GPU can be given back."
            )
        spec, memory, note = self.claim_spec(size, facts)
        placement = self.placement(size, facts)
        return Rendered(
            claims=(Claim(_CLAIM, spec),),
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
            memory_bytes=memory,
            note=note,
        )

    def placement(self, size: Size, facts: Facts) -> Placement:
        """Where a pod with such a claim goes; of the nodes that are there, the claim tells."""
        needed = size.memory or 0
        return placement_among(
            facts.kinds,
            facts.coming,
            lambda kind: kind.told.profile == size.profile and kind.told.memory >= needed,
            there=any(
                gpu.profile == size.profile and gpu.memory >= needed for gpu in self._open(facts)
            ),
        )

    def claim_spec(
        self, size: Size, facts: Facts, device: tuple[str, str] | None = None
    ) -> tuple[dict[str, Any], int | None, str]:
        """Spec of a claim, the bytes on each GPU where they are certain, and what was rounded.

        Parameters
        ----------
        device: pool and name of the only device that will do.

        Raises
        ------
        NoGpuError
        """
        if device is None:
            gpus = [*self._open(facts), *gpus_to_come(facts.coming, self._open(facts))]
        else:
            gpus = [gpu for gpu in self._gpus(facts) if gpu.key == device]
        memory: int | None
        if size.profile is not None:
            request, memory, note = self._instance(size, gpus, facts)
        else:
            request, memory, note = self._portion(size, gpus, facts)
        if device is not None:
            for part in request.get("firstAvailable", [request.get("exactly")]):
                part.setdefault("selectors", []).append(self._selector(gpus, device))
        spec: dict[str, Any] = {"devices": {"requests": [request]}}
        if size.count > 1:
            # Without this two shares of one kernel may lie on the same GPU.
            apart = {"requests": [_REQUEST], "distinctAttribute": f"{self.driver}/uuid"}
            spec["devices"]["constraints"] = [apart]
        return spec, memory, note

    def admin_spec(self, device: tuple[str, str], facts: Facts) -> dict[str, Any]:
        """Spec of a claim that uses a device without counting.

        The smallest amount is asked for: a request without one is taken for the whole device, and
        must be free at the moment of allocation although it is not counted afterwards.
        """
        gpus = [gpu for gpu in self._gpus(facts) if gpu.key == device]
        exactly: dict[str, Any] = {
            "deviceClassName": self.device_class,
            "allocationMode": "ExactCount",
            "count": 1,
            "adminAccess": True,
            "selectors": [self._selector(gpus, device)],
        }
        if gpus and gpus[0].shared:
            least = format_quantity(max(1, gpus[0].minimum))
            exactly["capacity"] = {"requests": {self.capacity_name: least}}
        return {"devices": {"requests": [{"name": _REQUEST, "exactly": exactly}]}}

    def _portion(
        self, size: Size, gpus: Sequence[Gpu], facts: Facts
    ) -> tuple[dict[str, Any], int | None, str]:
        whole = [gpu for gpu in gpus if gpu.profile is None]
        if not whole:
            if size.memory is not None and "resourceslices" in facts.missing:
                part = self._exactly(size, size.memory)
                return {"name": _REQUEST, "exactly": part}, size.memory, ""
            raise NoGpuError(self._nothing(size, facts))
        usable = whole if size.is_whole else [gpu for gpu in whole if gpu.shared]
        if not usable:
            raise NoGpuError(
                f"{size} cannot be had: the GPUs of this cluster are not shared (their DRA driver "
                "offers whole ones only). Ask for 1."
            )
        if size.memory is not None:
            fitting = [gpu for gpu in usable if gpu.rounded(size.memory) <= gpu.memory]
            if not fitting:
                largest = max(gpu.memory for gpu in usable)
                raise NoGpuError(
                    f"{size} is more than any GPU of this cluster has; the largest has "
                    f"{format_bytes(largest)}."
                )
            amounts = {gpu.rounded(size.memory) for gpu in fitting}
            amount = max(amounts)
            note = "" if amount == size.memory else _becomes(size, amount, fitting[0])
            return {"name": _REQUEST, "exactly": self._exactly(size, amount)}, amount, note
        fraction = size.fraction or Fraction(1)
        kinds: dict[int, list[Gpu]] = {}
        for gpu in usable:
            kinds.setdefault(gpu.memory, []).append(gpu)
        # The smallest kind first: what needs a large one may come later.
        ordered = sorted(kinds.items())[:_ALTERNATIVES]
        parts = [
            (self._exactly(size, group[0].part(fraction), shared=_amount_told(group, size)), group)
            for _, group in ordered
        ]
        amount = ordered[0][1][0].part(fraction)
        note = ""
        if amount != ordered[0][0] * fraction:
            note = _becomes(size, amount, ordered[0][1][0])
        if len(parts) == 1:
            return {"name": _REQUEST, "exactly": parts[0][0]}, amount, note
        alternatives = []
        for number, (part, group) in enumerate(parts):
            part["selectors"] = [self._of_memory(group[0])]
            alternatives.append({"name": f"kind-{number}", **part})
        return {"name": _REQUEST, "firstAvailable": alternatives}, None, note

    def _exactly(self, size: Size, amount: int, *, shared: bool = True) -> dict[str, Any]:
        part: dict[str, Any] = {
            "deviceClassName": self.device_class,
            "allocationMode": "ExactCount",
            "count": size.count,
        }
        if shared:
            part["capacity"] = {"requests": {self.capacity_name: format_quantity(amount)}}
        return part

    def _instance(
        self, size: Size, gpus: Sequence[Gpu], facts: Facts
    ) -> tuple[dict[str, Any], int | None, str]:
        fitting = [gpu for gpu in gpus if gpu.profile == size.profile]
        if not fitting and "resourceslices" not in facts.missing:
            there = sorted({gpu.profile for gpu in gpus if gpu.profile})
            instead = f"; there are {', '.join(f'mig-{p}' for p in there)}" if there else ""
            raise NoGpuError(f"No GPU of this cluster offers {size}{instead}.")
        expression = f'device.attributes["{self.driver}"].profile == "{size.profile}"'
        part = {
            "deviceClassName": self.mig_class,
            "allocationMode": "ExactCount",
            "count": size.count,
            "selectors": [{"cel": {"expression": expression}}],
        }
        memory = min((gpu.memory for gpu in fitting), default=None)
        return {"name": _REQUEST, "exactly": part}, memory, ""

    def _of_memory(self, gpu: Gpu) -> dict[str, Any]:
        name = f'device.capacity["{self.driver}"].{self.capacity_name}'
        expression = f'{name}.compareTo(quantity("{gpu.memory}")) == 0'
        if gpu.coming:
            least, most = gpu.memory * 19 // 20, gpu.memory * 21 // 20
            expression = (
                f'{name}.compareTo(quantity("{least}")) >= 0 && '
                f'{name}.compareTo(quantity("{most}")) <= 0'
            )
        return {"cel": {"expression": expression}}

    def _selector(self, gpus: Sequence[Gpu], device: tuple[str, str]) -> dict[str, Any]:
        uuid = next((gpu.uuid for gpu in gpus if gpu.key == device), device[1])
        return {"cel": {"expression": f'device.attributes["{self.driver}"].uuid == "{uuid}"'}}

    def _nothing(self, size: Size, facts: Facts) -> str:
        if "resourceslices" in facts.missing:
            return (
                f"{size} cannot be reckoned: the Jupyter server may not read the cluster's "
                "ResourceSlices. Ask in GiB, or have the administrator apply "
                "etc/kubernetes/overlays/cluster-read."
            )
        barred = facts.barred
        apart = next((gpu.node for gpu in self._gpus(facts) if gpu.node in barred), None)
        why = f" to kernels: {apart} {barred[apart]}" if apart is not None else ""
        return f"{size} cannot be had: no GPU of this cluster is offered by {self.driver}{why}."

    # -- reading -----------------------------------------------------------------------------

    def granted(self, pod: Object, claims: Sequence[Object], facts: Facts) -> Share | None:
        """See :meth:`Backend.granted`."""
        known = self._by_key(facts)
        # A share can be made up of several claims on one device.
        amounts: dict[tuple[str, str], int] = {}
        for _, result in _results(claims, self.driver):
            if not result.get("adminAccess"):
                key = result["pool"], result["device"]
                amounts[key] = amounts.get(key, 0) + self._consumed(result, known.get(key))
        if not amounts:
            return None
        gpus = [known.get(key) for key in amounts]
        devices = tuple(
            Device(
                gpu.uuid if gpu else key[1],
                gpu.model if gpu else "GPU",
                gpu.node if gpu else key[0],
            )
            for key, gpu in zip(amounts, gpus, strict=True)
        )
        simulated = any(gpu.simulated for gpu in gpus if gpu)
        memory, total = min(amounts.values()), min(gpu.memory if gpu else 0 for gpu in gpus)
        if any(gpu.profile for gpu in gpus if gpu) and not simulated:
            isolation = Isolation.HARDWARE
        else:
            isolation = _soft(memory, total)
        fraction = Fraction(memory, total) if total else Fraction(0)
        return Share(devices, memory, fraction, isolation, simulated)

    def _consumed(self, result: Object, gpu: Gpu | None) -> int:
        """Bytes that an allocation takes of its device: all of it, if it is not shared."""
        taken = dig(result, "consumedCapacity", self.capacity_name)
        if taken is not None:
            return parse_quantity(taken)
        return gpu.memory if gpu else 0

    def device_of(self, claim: Object) -> tuple[str, str] | None:
        """Pool and name of the device that a claim was allocated; None before that."""
        for _, result in _results([claim], self.driver):
            return result["pool"], result["device"]
        return None

    # -- one device of several claims --------------------------------------------------------

    def held_on(self, claim: Object, device: tuple[str, str], facts: Facts) -> int:
        """Bytes that a claim holds of a device."""
        gpu = self._by_key(facts).get(device)
        return sum(
            self._consumed(result, gpu)
            for _, result in _results([claim], self.driver)
            if (result["pool"], result["device"]) == device and not result.get("adminAccess")
        )

    def free_on(self, device: tuple[str, str], facts: Facts) -> int | None:
        """Bytes of a device that nobody holds; None if that is not known."""
        gpu = self._by_key(facts).get(device)
        if gpu is None or "resourceclaims" in facts.missing:
            return None
        if device in self._shut(facts):
            return 0
        return gpu.memory - sum(self.held_on(claim, device, facts) for claim in facts.claims)

    def amount_on(self, size: Size, device: tuple[str, str], facts: Facts) -> int | None:
        """Bytes that a size is of a device; None: the device gives no such share."""
        gpu = self._by_key(facts).get(device)
        if gpu is None or gpu.profile or size.profile or size.count != 1 or size.is_none:
            return None
        if size.memory is not None:
            memory = gpu.rounded(size.memory)
        else:
            memory = gpu.part(size.fraction or Fraction(1))
        return memory if memory == gpu.memory or (gpu.shared and memory < gpu.memory) else None

    def share_on(
        self, held: Share, size: Size, device: tuple[str, str], facts: Facts
    ) -> Share | None:
        """The share that a size would be on the device of another; None: it gives no such one."""
        memory, gpu = self.amount_on(size, device, facts), self._by_key(facts).get(device)
        if memory is None or gpu is None:
            return None
        isolation = _soft(memory, gpu.memory)
        fraction = Fraction(memory, gpu.memory)
        return replace(held, memory_bytes=memory, fraction=fraction, isolation=isolation)

    def gives(self, device: tuple[str, str], amount: int, facts: Facts) -> bool:
        """Whether a claim can hold exactly so many bytes of a device."""
        gpu = self._by_key(facts).get(device)
        return gpu is not None and gpu.shared and gpu.rounded(amount) == amount <= gpu.memory

    def totals(self, share: Share, facts: Facts) -> list[int]:
        """Bytes of each whole device of a share, in its order."""
        memory = {gpu.uuid: gpu.memory for gpu in self._gpus(facts)}
        return [memory.get(device.uuid, share.memory_bytes) for device in share.devices]

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`."""
        taken: dict[tuple[str, str], int] = {}
        kernels: dict[tuple[str, str], int] = {}
        known, shut = self._by_key(facts), self._shut(facts)
        for _, result in _results(facts.claims, self.driver):
            if result.get("adminAccess"):
                continue
            key = result["pool"], result["device"]
            taken[key] = taken.get(key, 0) + self._consumed(result, known.get(key))
            kernels[key] = kernels.get(key, 0) + 1
        return [
            Capacity(
                uuid=gpu.uuid,
                model=gpu.model,
                node=gpu.node,
                memory_bytes=gpu.memory,
                free_bytes=(0 if gpu.key in shut else max(0, gpu.memory - taken.get(gpu.key, 0))),
                profile=gpu.profile,
                simulated=gpu.simulated,
                kernels=kernels.get(gpu.key, 0),
            )
            for gpu in self._open(facts)
        ]

    def explain(self, message: str) -> str | None:
        """See :meth:`Backend.explain`."""
        if "cannot allocate all claims" in message:
            return "No GPU has that much free now."
        if "waiting for" in message and "resourceclaim" in message.lower():
            return "The share is being allocated."
        return None

    def examine(self, facts: Facts) -> list[Finding]:
        """See :meth:`Backend.examine`."""
        if "resourceslices" in facts.missing:
            return [
                Finding(
                    "warning",
                    "The Jupyter server may not read ResourceSlices: fractions of a GPU cannot be "
                    "reckoned, and what is free cannot be shown.",
                    "kubectl apply -k etc/kubernetes/overlays/cluster-read",
                )
            ]
        gpus = self._gpus(facts)
        if not gpus:
            return [
                Finding(
                    "error",
                    f"No device of the DRA driver {self.driver} is offered.",
                    "Install the driver, or name it: "
                    'c.KubernetesEngine.backend_options = {"driver": "…"}',
                )
            ]
        findings = []
        shared = [gpu for gpu in gpus if gpu.shared]
        what = "simulated GPUs" if any(gpu.simulated for gpu in gpus) else "GPUs"
        findings.append(
            Finding("ok", f"DRA offers {len(gpus)} {what}; {len(shared)} of them can be shared.")
        )
        if not shared and not any(gpu.profile for gpu in gpus):
            findings.append(
                Finding(
                    "warning",
                    "Only whole GPUs can be had: no device allows several allocations.",
                    "Turn on consumable capacity in the DRA driver (Kubernetes 1.34 or later).",
                )
            )
        names = {dig(item, "metadata", "name") for item in facts.device_classes}
        needed = {self.device_class}
        if any(gpu.profile for gpu in gpus):
            needed.add(self.mig_class)
        findings += [
            Finding(
                "error",
                f"There is no DeviceClass {name!r}, which c.KubernetesEngine.backend_options "
                "names.",
                "kubectl get deviceclasses",
            )
            for name in sorted(needed - names if names else ())
        ]
        return findings

    def _gpus(self, facts: Facts) -> list[Gpu]:
        return list(self._by_key(facts).values())

    def _open(self, facts: Facts) -> list[Gpu]:
        """GPUs on nodes that kernels may go to."""
        barred = facts.barred
        return [gpu for gpu in self._gpus(facts) if gpu.node not in barred]

    def _shut(self, facts: Facts) -> frozenset[DeviceKey]:
        """GPUs of which no further claim gets anything now."""
        held = {
            (result["pool"], result["device"])
            for _, result in _results(facts.claims, self.driver)
            if not result.get("adminAccess")
        }
        away = facts.away
        on_nodes = {gpu.key for gpu in self._gpus(facts) if gpu.node in away}
        return blocked(current(facts.slices, self.driver), held) | on_nodes

    def _by_key(self, facts: Facts) -> dict[tuple[str, str], Gpu]:
        """GPUs by pool and name. Slices are read once: every kernel of a list asks for them."""
        if facts.slices is not self._slices:
            self._slices = facts.slices
            found = gpus_of(facts.slices, self.driver, self.capacity_name)
            self._known = {gpu.key: gpu for gpu in found}
        return self._known


def _amount_told(gpus: Sequence[Gpu], size: Size) -> bool:
    """Whether a claim says how much. One for all of a GPU that is to come does not: it has all."""
    return gpus[0].shared and not (size.is_whole and gpus[0].coming)


def _soft(memory: int, total: int) -> Isolation:
    """What keeps a kernel to a part of a device that knows no borders itself."""
    return Isolation.NONE if memory >= total else Isolation.FRAMEWORK


def _results(claims: Sequence[Object], driver: str) -> Iterator[tuple[Object, Object]]:
    for claim in claims:
        for result in dig(claim, "status", "allocation", "devices", "results", default=[]):
            if result.get("driver") == driver:
                yield claim, result


def _becomes(size: Size, amount: int, gpu: Gpu) -> str:
    model = a_model(gpu.model)
    return f"{size} becomes {format_bytes(amount)} of {model} ({format_bytes(gpu.memory)})."
