"""Which nodes and devices kernels can have: ever, and at this moment. Pure.

Of nodes: where a pod may never go (labels that it asks for, taints that it does not tolerate), and
where none starts just now (cordoned, not ready, about to be removed). Of devices behind DRA: what
an older generation of a pool has left, taints, and counters that others have used up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._quantity import parse_quantity

__all__ = ["GPU_TOLERATION", "DeviceKey", "Placement", "away", "barred", "blocked", "current"]

Object = Mapping[str, Any]
#: Pool and name of a device.
DeviceKey = tuple[str, str]

#: The taint that clouds and NVIDIA's operator put on nodes with GPUs. Clusters whose admission adds
#: the toleration go by extended resources, which neither DRA nor KAI asks for.
GPU_TOLERATION: Object = {"key": "nvidia.com/gpu", "operator": "Exists"}

_CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
_KEEPS_OUT = ("NoSchedule", "NoExecute")
#: Taints that come and go with a node's condition; all others are the administrator's. Autoscalers,
#: and what clouds run for the end of a machine, taint a node that another one follows.
_PASSING = re.compile(
    r"node(\.cloudprovider)?\.kubernetes\.io/.*|karpenter\.sh/.*|ToBeDeletedByClusterAutoscaler"
    r"|cloud\.google\.com/impending-node-termination|aws-node-termination-handler/.*"
    r"|remediator\.(kubernetes\.azure|aks\.microsoft)\.com/unschedulable"
    r"|.*(not-ready|uninitialized)"
)


@dataclass(frozen=True)
class Placement:
    """Where pods may go, as their spec says it.

    Attributes
    ----------
    node_selector: labels that a node must have.
    tolerations: taints of nodes that do not keep the pods out.
    """

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Object] = ()

    def __add__(self, other: Placement) -> Placement:
        """With what the other asks for and tolerates besides."""
        return Placement(
            {**self.node_selector, **other.node_selector},
            [*self.tolerations, *(one for one in other.tolerations if one not in self.tolerations)],
        )

    def agrees(self, other: Placement) -> bool:
        """Whether a node can have the labels that both ask for."""
        return all(
            self.node_selector.get(name, value) == value
            for name, value in other.node_selector.items()
        )

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels has all that are asked for."""
        return all(labels.get(name) == value for name, value in self.node_selector.items())

    def untolerated(self, node: Object) -> Iterator[str]:
        """Keys of the node's taints that keep these pods out."""
        spec = node.get("spec") or {}
        taints = [*(spec.get("taints") or []), *([_CORDON] if spec.get("unschedulable") else [])]
        for taint in taints:
            if taint.get("effect") in _KEEPS_OUT and not any(
                _tolerates(one, taint) for one in self.tolerations
            ):
                yield str(taint.get("key", ""))


def barred(node: Object, placement: Placement) -> str:
    """Why pods never go to a node, after its name in a sentence; empty where they may."""
    labels = (node.get("metadata") or {}).get("labels") or {}
    if not placement.selects(labels):
        return "has not the labels that they ask for"
    taint = next((key for key in placement.untolerated(node) if not _PASSING.fullmatch(key)), None)
    return f"has the taint {taint}, which kernels do not tolerate" if taint is not None else ""


def away(node: Object, placement: Placement) -> str:
    """Why no pod starts on a node now, after its name in a sentence; empty where one does."""
    taints = [key for key in placement.untolerated(node) if _PASSING.fullmatch(key)]
    if _CORDON["key"] in taints:
        return "is cordoned"
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            return "is not ready"
    return f"has the taint {taints[0]}" if taints else ""


def _tolerates(toleration: Object, taint: Object) -> bool:
    """As the scheduler decides it; operators that compare numbers are taken for a no."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    operator = toleration.get("operator") or "Equal"
    if not toleration.get("key"):
        return bool(operator == "Exists")
    if toleration["key"] != taint.get("key"):
        return False
    same = (toleration.get("value") or "") == (taint.get("value") or "")
    return operator == "Exists" or (operator == "Equal" and same)


# -- devices -------------------------------------------------------------------------------------


def current(slices: Iterable[Object], driver: str) -> list[Object]:
    """A driver's slices, without those that its pools have replaced by a newer generation."""
    own = [item for item in slices if (item.get("spec") or {}).get("driver") == driver]
    newest: dict[str, int] = {}
    for item in own:
        pool, generation = _pool(item)
        newest[pool] = max(generation, newest.get(pool, generation))
    return [item for item in own if newest[_pool(item)[0]] == _pool(item)[1]]


def blocked(
    slices: Sequence[Object], held: Collection[DeviceKey], rules: Iterable[Object] = ()
) -> frozenset[DeviceKey]:
    """Devices of which no further claim gets anything now.

    Parameters
    ----------
    slices: the current ones of one driver.
    held: devices that claims have been allocated.
    rules: DeviceTaintRules of whatever driver.
    """
    left = _left(slices, held)
    return _ruled_out(slices, rules) | frozenset(
        (pool, device["name"])
        for pool, device in _devices(slices)
        if any(taint.get("effect") in _KEEPS_OUT for taint in device.get("taints") or [])
        or (
            (pool, device["name"]) not in held
            and any(left.get(what, amount) < amount for what, amount in _uses(pool, device))
        )
    )


def _ruled_out(slices: Sequence[Object], rules: Iterable[Object]) -> frozenset[DeviceKey]:
    """Devices that a DeviceTaintRule taints: no claim of ours tolerates a taint of a device."""
    # Without a selector a rule selects nothing, and with an empty one everything.
    selectors = [
        spec["deviceSelector"]
        for spec in (rule.get("spec") or {} for rule in rules)
        if (spec.get("taint") or {}).get("effect") in _KEEPS_OUT
        and spec.get("deviceSelector") is not None
    ]

    def ruled(driver: str, pool: str, device: str) -> bool:
        own = {"driver": driver, "pool": pool, "device": device}
        return any(
            all(selector.get(what) in (None, name) for what, name in own.items())
            for selector in selectors
        )

    return frozenset(
        (_pool(item)[0], device["name"])
        for item in slices
        for _, device in _devices([item])
        if ruled((item.get("spec") or {}).get("driver", ""), _pool(item)[0], device["name"])
    )


def _left(slices: Sequence[Object], held: Collection[DeviceKey]) -> dict[tuple[str, str, str], int]:
    """What is left of the counters, by pool, set and name.

    A device that is shared uses its counters once, however many claims it has.
    """
    left = {
        (_pool(item)[0], counters["name"], name): parse_quantity(counter["value"])
        for item in slices
        for counters in (item.get("spec") or {}).get("sharedCounters") or []
        for name, counter in (counters.get("counters") or {}).items()
    }
    for pool, device in _devices(slices):
        if (pool, device["name"]) in held:
            for what, amount in _uses(pool, device):
                if what in left:
                    left[what] -= amount
    return left


def _uses(pool: str, device: Object) -> Iterator[tuple[tuple[str, str, str], int]]:
    for part in device.get("consumesCounters") or []:
        for name, counter in (part.get("counters") or {}).items():
            yield (pool, part["counterSet"], name), parse_quantity(counter["value"])


def _devices(slices: Iterable[Object]) -> Iterator[tuple[str, Object]]:
    for item in slices:
        for device in (item.get("spec") or {}).get("devices") or []:
            yield _pool(item)[0], device


def _pool(item: Object) -> tuple[str, int]:
    pool = (item.get("spec") or {}).get("pool") or {}
    return pool.get("name", ""), int(pool.get("generation") or 0)
