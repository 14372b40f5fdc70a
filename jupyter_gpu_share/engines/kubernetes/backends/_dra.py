"""Dynamic Resource Allocation: devices with consumable capacity, and MIG instances by selector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from operator import attrgetter
from typing import Any, ClassVar

from ....allocations import Device, Isolation, Share
from ....errors import NoGpuError
from ....size import Size, format_bytes
from ...base import Capacity, Finding
from ._base import Backend, Claim, Facts, Object, Rendered, dig
from ._dra_claims import REQUEST, Requests
from ._dra_gpus import Gpu, gpus_of, gpus_to_come
from ._dra_held import held_by, kernels_on, results, taken_of
from ._kinds import placement_among
from ._nodes import a_model
from ._usable import DeviceKey, Placement, blocked, current

__all__ = ["DraBackend"]

#: Name of the claim within a pod.
_CLAIM = "gpu"
#: So many alternatives may a request have.
_ALTERNATIVES = 8
_GROUP = "resource.k8s.io/v1"
#: Drivers that load a library into the processes which holds them to what their own claim says.
_PRELOADING = frozenset({"hami-core-gpu.project-hami.io"})


class DraBackend(Backend):
    """Shares as ResourceClaims on devices whose memory is a consumable capacity.

    In style ``pod`` the kernel's pod uses the claim. In style ``lease`` a tiny pod holds it, less
    the smallest amount of the device: this the kernel's pod has by a claim of its own, on which it
    rests while its share is away. Of a device whose smallest amount is large its claim has
    administrator access instead.
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
    uses: ClassVar[frozenset[str]] = frozenset({"nodes", "devicetaintrules"})

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        chosen = self.accept(options)
        self.driver = chosen.get("driver", "gpu.nvidia.com")
        self.device_class = chosen.get("device_class", self.driver)
        self.mig_class = chosen.get("mig_class", "mig.nvidia.com")
        self.capacity_name = chosen.get("capacity", "memory")
        self._requests = Requests(
            self.driver, self.device_class, self.mig_class, self.capacity_name
        )
        self._slices: Sequence[Object] = ()
        self._known: dict[DeviceKey, Gpu] = {}
        self._by_uuid: dict[str, Gpu] = {}

    @property
    def _leased(self) -> bool:
        return self.style == "lease"

    def why_not(self, style: str) -> str | None:
        """See :meth:`Backend.why_not`."""
        if style == "lease" and self.driver in _PRELOADING:
            return (
                f"Style 'lease' cannot be had with the DRA driver {self.driver}: it holds a kernel "
                "to the memory of the kernel's own claim, which in this style is not its share. "
                'Set c.KubernetesEngine.style = "pod".'
            )
        return super().why_not(style)

    @classmethod
    def offered(cls, facts: Facts) -> bool:
        """Whether there are devices of NVIDIA's kind behind the API of this group."""
        return _GROUP in facts.groups and any(
            dig(item, "spec", "driver") == "gpu.nvidia.com" for item in facts.slices
        )

    @classmethod
    def shares(cls, facts: Facts) -> bool:
        """Whether a device may have several claims, or is a MIG instance."""
        return any(gpu.shared or gpu.profile for gpu in cls()._open(facts))

    # -- asking ------------------------------------------------------------------------------

    def render(self, size: Size, facts: Facts) -> Rendered:
        """See :meth:`Backend.render`."""
        if self._leased and (size.profile is not None or size.count > 1):
            # The kernel's own claim is for one device, and an instance is never parted.
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

    def claim_spec(self, size: Size, facts: Facts) -> tuple[dict[str, Any], int | None, str]:
        """Spec of a claim, the bytes on each GPU where they are certain, and what was rounded.

        In style ``lease`` the claim leaves room for the kernel's own; the bytes are of both.

        Raises
        ------
        NoGpuError
        """
        gpus = [*self._open(facts), *gpus_to_come(facts.coming, self._open(facts))]
        if self._leased:
            gpus = [gpu for gpu in gpus if gpu.named]
        if size.profile is not None:
            spec, memory, note = self._instance(size, gpus, facts)
        else:
            spec, memory, note = self._portion(size, gpus, facts)
        shared = [gpu for gpu in gpus if gpu.profile == size.profile and gpu.shared]
        if size.count > 1 and shared and all(gpu.named for gpu in shared):
            # Else two shares of one kernel may lie on the same GPU. Devices that are not shared
            # are others anyway, and this is known only to clusters that share devices.
            spec["devices"]["constraints"] = [self._requests.apart()]
        return spec, memory, note

    def lease_spec(
        self, amount: int, device: DeviceKey, facts: Facts, size: Size | None = None
    ) -> dict[str, Any]:
        """Spec of a claim for so many bytes of one device. See :meth:`Requests.lease`.

        Raises
        ------
        NoGpuError: the device is not offered, or not known.
        """
        return _claim("exactly", self._requests.lease(self._offered(device, facts), amount, size))

    def own_spec(self, device: DeviceKey, facts: Facts) -> dict[str, Any]:
        """Spec of a kernel's own claim on the device of its lease. See :meth:`Requests.own`.

        Raises
        ------
        NoGpuError: the device is not offered, or not known.
        """
        return _claim("exactly", self._requests.own(self._offered(device, facts)))

    def _portion(
        self, size: Size, gpus: Sequence[Gpu], facts: Facts
    ) -> tuple[dict[str, Any], int | None, str]:
        whole = [gpu for gpu in gpus if gpu.profile is None]
        if not whole:
            blind = "resourceslices" in facts.missing
            if size.memory is not None and blind and not self._leased:
                part = self._requests.exactly(size.count, {self.capacity_name: size.memory})
                return _claim("exactly", part), size.memory, ""
            raise NoGpuError(self._nothing(size, facts))
        usable = whole if size.is_whole else [gpu for gpu in whole if gpu.shared]
        if not usable:
            raise NoGpuError(
                f"{size} cannot be had: the GPUs of this cluster are not shared (their DRA driver "
                "offers whole ones only). Ask for 1."
            )
        if size.count > 1 and not all(gpu.named for gpu in usable if gpu.shared):
            raise NoGpuError(
                f"{size} cannot be had: the DRA driver {self.driver} tells no uuid of its GPUs, so "
                "two parts could be of the same one. Ask for a part of one GPU."
            )
        kind = attrgetter("amounts", "shared", "rest")  # all that decides, of a thousand GPUs
        shares = {kind(gpu): gpu for gpu in usable}
        amounts_of = {each: gpu.share(size, leased=self._leased) for each, gpu in shares.items()}
        found = [(amount, gpu) for gpu in usable if (amount := amounts_of[kind(gpu)]) is not None]
        if not found:
            largest = max(gpu.memory for gpu in usable)
            raise NoGpuError(
                f"{size} is more than any GPU of this cluster has; the largest has "
                f"{format_bytes(largest)}."
            )
        reckoned = {amount for amount, _ in found}
        # Bytes that are all of a small GPU are less of it, where others have to have room to rest.
        if size.memory is not None and (len(reckoned) == 1 or min(reckoned) >= size.memory):
            amount = max(reckoned)
            fitting = [gpu for _, gpu in found]
            note = "" if amount == size.memory else _becomes(size, amount, fitting[0])
            amounts = self._requests.amounts(fitting, size, amount, leased=self._leased)
            return _claim("exactly", self._requests.exactly(size.count, amounts)), amount, note
        kinds: dict[int, list[tuple[int, Gpu]]] = {}
        for amount, gpu in found:
            kinds.setdefault(gpu.memory, []).append((amount, gpu))
        # The smallest kind first: what needs a large one may come later.
        ordered = [kinds[memory] for memory in sorted(kinds)[:_ALTERNATIVES]]
        parts = []
        for group in ordered:
            same = [gpu for _, gpu in group]
            amounts = self._requests.amounts(same, size, group[0][0], leased=self._leased)
            told = amounts if _amount_told(same, size) else None
            parts.append(self._requests.exactly(size.count, told))
        amount, first = ordered[0][0]
        exact = amount == (size.memory or first.memory * (size.fraction or Fraction(1)))
        note = "" if exact else _becomes(size, amount, first)
        if len(parts) == 1:
            return _claim("exactly", parts[0]), amount, note
        alternatives = []
        for number, (part, group) in enumerate(zip(parts, ordered, strict=True)):
            part["selectors"] = [self._requests.of_memory(group[0][1])]
            alternatives.append({"name": f"kind-{number}", **part})
        return _claim("firstAvailable", alternatives), None, note

    def _instance(
        self, size: Size, gpus: Sequence[Gpu], facts: Facts
    ) -> tuple[dict[str, Any], int | None, str]:
        fitting = [gpu for gpu in gpus if gpu.profile == size.profile]
        if not fitting and "resourceslices" not in facts.missing:
            there = sorted({gpu.profile for gpu in gpus if gpu.profile})
            instead = f"; there are {', '.join(f'mig-{p}' for p in there)}" if there else ""
            raise NoGpuError(f"No GPU of this cluster offers {size}{instead}.")
        memory = min((gpu.memory for gpu in fitting), default=None)
        return _claim("exactly", self._requests.instances(size)), memory, ""

    def knows_node(self, name: str, facts: Facts) -> bool:
        """See :meth:`Backend.knows_node`. Devices of a driver may be of no node."""
        return any(gpu.node in (name, "") for gpu in self._gpus(facts))

    def knows(self, device: DeviceKey, facts: Facts) -> bool:
        """Whether a device is among those that are offered, as far as it is known."""
        return device in self._by_key(facts)

    def _offered(self, device: DeviceKey, facts: Facts) -> Gpu:
        gpu = self._by_key(facts).get(device)
        if gpu is None:
            raise NoGpuError(
                f"The kernel's GPU {device[1]} of {device[0]} is not offered by {self.driver} now."
            )
        return gpu

    def _nothing(self, size: Size, facts: Facts) -> str:
        if "resourceslices" in facts.missing:
            instead = "Have" if self._leased else "Ask in GiB, or have"
            return (
                f"{size} cannot be reckoned: the Jupyter server may not read the cluster's "
                f"ResourceSlices. {instead} the administrator apply "
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
        amounts: dict[DeviceKey, int] = {}
        for _, key, amount in self._held_by(claims, facts):
            amounts[key] = amounts.get(key, 0) + amount
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
            isolation = self._soft(memory, total)
        fraction = Fraction(memory, total) if total else Fraction(0)
        return Share(devices, memory, fraction, isolation, simulated)

    def _soft(self, memory: int, total: int) -> Isolation:
        """What keeps a kernel to a part of a device that knows no borders itself."""
        if memory >= total:
            return Isolation.NONE
        preloading = self.driver in _PRELOADING
        return Isolation.PRELOAD if preloading else Isolation.FRAMEWORK

    def device_of(self, claim: Object) -> tuple[str, str] | None:
        """Pool and name of the device that a claim was allocated; None before that."""
        return next((key for _, key, _ in results([claim], self.driver)), None)

    # -- one device of several claims --------------------------------------------------------

    def held_on(self, claim: Object, device: tuple[str, str], facts: Facts) -> int:
        """Bytes that a claim holds of a device."""
        return sum(amount for _, key, amount in self._held_by([claim], facts) if key == device)

    def free_on(self, device: tuple[str, str], facts: Facts) -> int | None:
        """Bytes of a device that nobody holds; None if that is not known."""
        gpu = self._by_key(facts).get(device)
        if gpu is None or "resourceclaims" in facts.missing:
            return None
        if device in self._shut(facts):
            return 0
        return gpu.memory - self._taken(facts).get(device, 0)

    def amount_on(self, size: Size, device: tuple[str, str], facts: Facts) -> int | None:
        """Bytes that a size is of a device; None: the device gives no such share."""
        gpu = self._by_key(facts).get(device)
        if gpu is None or gpu.profile or size.profile or size.count != 1 or size.is_none:
            return None
        return gpu.share(size, leased=self._leased)

    def share_on(
        self, held: Share, size: Size, device: tuple[str, str], facts: Facts
    ) -> Share | None:
        """The share that a size would be on the device of another; None: it gives no such one."""
        memory, gpu = self.amount_on(size, device, facts), self._by_key(facts).get(device)
        if memory is None or gpu is None:
            return None
        isolation = self._soft(memory, gpu.memory)
        fraction = Fraction(memory, gpu.memory)
        return replace(held, memory_bytes=memory, fraction=fraction, isolation=isolation)

    def gives(self, device: tuple[str, str], amount: int, facts: Facts) -> bool:
        """Whether a claim can hold exactly so many bytes of a device."""
        gpu = self._by_key(facts).get(device)
        return gpu is not None and gpu.shared and gpu.amounts.up(amount) == amount <= gpu.memory

    def totals(self, share: Share, facts: Facts) -> list[int]:
        """Bytes of each whole device of a share, in its order."""
        memory = {gpu.uuid: gpu.memory for gpu in self._gpus(facts)}
        return [memory.get(device.uuid, share.memory_bytes) for device in share.devices]

    def capacity(self, facts: Facts) -> list[Capacity]:
        """See :meth:`Backend.capacity`."""
        taken = self._taken(facts)
        kernels = kernels_on(facts.claims, self.driver, self.capacity_name, self._by_key(facts))
        shut = self._shut(facts)
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

    def need(self, size: Size, gpu: Capacity, facts: Facts) -> int:
        """See :meth:`Backend.need`."""
        self._by_key(facts)
        known = self._by_uuid.get(gpu.uuid)
        if known is None:
            return super().need(size, gpu, facts)
        share = known.share(size, leased=self._leased)
        return share if share is not None else known.memory + 1

    def _held_by(
        self, claims: Sequence[Object], facts: Facts
    ) -> Iterator[tuple[Object, DeviceKey, int]]:
        return held_by(claims, self.driver, self.capacity_name, self._by_key(facts))

    def _taken(self, facts: Facts) -> dict[DeviceKey, int]:
        return taken_of(facts.claims, self.driver, self.capacity_name, self._by_key(facts))

    def privileged(self, facts: Facts) -> list[str]:
        """Models on which style ``lease`` needs administrator access."""
        return sorted(
            {gpu.model for gpu in self._open(facts) if gpu.profile is None and not gpu.rest}
        )

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
            key
            for _, key, result in results(facts.claims, self.driver)
            if not result.get("adminAccess")
        }
        away = facts.away
        on_nodes = {gpu.key for gpu in self._gpus(facts) if gpu.node in away}
        slices = current(facts.slices, self.driver)
        return blocked(slices, held, facts.taint_rules) | on_nodes

    def _by_key(self, facts: Facts) -> dict[tuple[str, str], Gpu]:
        """GPUs by pool and name. Slices are read once: every kernel of a list asks for them."""
        if facts.slices is not self._slices:
            self._slices = facts.slices
            found = gpus_of(facts.slices, self.driver, self.capacity_name)
            self._known = {gpu.key: gpu for gpu in found}
            self._by_uuid = {gpu.uuid: gpu for gpu in self._known.values()}
        return self._known


def _amount_told(gpus: Sequence[Gpu], size: Size) -> bool:
    """Whether a claim says how much. One for all of a GPU that is to come does not: it has all."""
    return gpus[0].shared and not (size.is_whole and gpus[0].coming)


def _claim(kind: str, request: Any) -> dict[str, Any]:
    """Spec of a claim with one request, of this kind."""
    return {"devices": {"requests": [{"name": REQUEST, kind: request}]}}


def _becomes(size: Size, amount: int, gpu: Gpu) -> str:
    model = a_model(gpu.model)
    return f"{size} becomes {format_bytes(amount)} of {model} ({format_bytes(gpu.memory)})."
