"""What KAI Scheduler reads off pods: on which GPU they are, how much of it they count for. Pure.

A GPU that is shared is a *group*: a name on the label ``runai-gpu-group`` of all pods that are on
it, and of the pod that reserves it. How much a pod counts for follows from its annotations at every
round of the scheduler, also while it runs. So a patch of them gives part of a share back, and takes
it again; nothing in the cluster objects to a patch that takes more than there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ._base import Object, dig, named
from ._labels import MIB
from ._quantity import parse_quantity

__all__ = [
    "FRACTION",
    "GROUP",
    "MEMORY",
    "NUMBER",
    "amount_of",
    "counted",
    "decimal",
    "devices_of",
    "given_back",
    "groups_of",
    "is_limited",
    "is_reservation",
    "library_limit",
    "limit_key",
    "noted",
    "original",
    "request_key",
    "reservations",
    "reserved_gpu",
    "resized",
    "resizing",
    "restore",
    "settled",
    "shrink",
    "unresized",
    "used",
]

FRACTION, MEMORY, NUMBER = "gpu-fraction", "gpu-memory", "gpu-fraction-num-devices"
#: Which container has the part of a GPU; without it the first one.
CONTAINER_NAME = "gpu-fraction-container-name"
GROUP = "runai-gpu-group"
_CONTAINER, _REQUEST = "nvidia.com/container.", ".gpu-memory.request"
_LIMIT, _DEVICES = ".gpu-memory.limit", ".gpus.devices"
#: The variable by which HAMi-core knows the most that a container may use.
_LIBRARY = "CUDA_DEVICE_MEMORY_LIMIT"
_RESERVATION = "gpu-reservation"
_RESERVED = "run.ai/reserve_for_gpu_index"
_CDI = "k8s.device-plugin.nvidia.com/gpu="
_ENDED = ("Succeeded", "Failed")

#: Our annotation on a pod that gave its share back: what the annotations were, as JSON.
_GIVEN_BACK = "gpu-share.jupyter.org/given-back"
#: Ours on a pod that takes more than it had, until it has made sure of that: the same.
_BEFORE = "gpu-share.jupyter.org/amounts-before"
#: MiB that a pod without its share still counts for: KAI takes a share of nothing for no share, and
#: a GPU on which nothing is counted for a free one.
_REST = 2
#: MiB to whose multiples KAI rounds the memory of a GPU down before it counts with it
#: (pkg/scheduler/api/node_info/node_info.go).
_STEP = 100
_DIGITS = Decimal("0.000001")
#: A fraction that is not a whole GPU, of which KAI knows another kind.
_MOST = 1 - Fraction(_DIGITS)


def request_key(container: str) -> str:
    """Annotation for a container's memory on each of its GPUs, as a quantity."""
    return f"{_CONTAINER}{container}{_REQUEST}"


def limit_key(container: str) -> str:
    """Annotation for the most memory that a container may use on each of its GPUs."""
    return f"{_CONTAINER}{container}{_LIMIT}"


def decimal(fraction: Fraction) -> str:
    """A fraction below 1 as KAI reads it, rounded down: three thirds stay within a GPU."""
    whole = int(fraction / Fraction(_DIGITS))
    return format((whole * _DIGITS).normalize(), "f")


def counted(total: int) -> int:
    """MiB that KAI takes a GPU of ``total`` MiB for; 0 if that is unknown."""
    return total // _STEP * _STEP


def groups_of(pod: Object) -> tuple[str, ...]:
    """The groups that a pod is in, in a fixed order; a pod on several GPUs has a label for each."""
    labels: Mapping[str, str] = dig(pod, "metadata", "labels", default={})
    found = {value for key, value in labels.items() if key == GROUP or key.startswith(GROUP + "/")}
    return tuple(sorted(found))


def is_reservation(pod: Object) -> bool:
    """Whether KAI holds a GPU with this pod, for the pods of a group."""
    return str(dig(pod, "metadata", "name", default="")).startswith(_RESERVATION)


def reserved_gpu(pod: Object) -> str:
    """UUID of the GPU that a reservation holds; empty before it is known."""
    uuid: str = dig(pod, "metadata", "annotations", _RESERVED, default="")
    return uuid if uuid.startswith("GPU-") else ""


def reservations(pods: Iterable[Object]) -> dict[str, str]:
    """What the reservations among pods tell of GPUs, by group."""
    return {
        group: reserved_gpu(pod) for pod in pods if is_reservation(pod) for group in groups_of(pod)
    }


def devices_of(pod: Object) -> list[str]:
    """UUIDs of a pod's GPUs, where KAI has written them on it; else none."""
    for key, value in _notes(pod).items():
        if key.startswith(_CONTAINER) and key.endswith(_DEVICES):
            return [name.removeprefix(_CDI) for name in str(value).split(",") if name]
    return []


def amount_of(pod: Object, total: int) -> Fraction | None:
    """MiB for which a pod counts on each of its GPUs of ``total`` MiB; None: it asks for none.

    As KAI resolves it: a container's request first, then its limit, then the pod's fraction, then
    its memory. Not rounded, so that sums of fractions stay exact.

    Raises
    ------
    ValueError: it asks for something that is no amount.
    """
    notes = _notes(pod)
    for suffix in (_REQUEST, _LIMIT):
        for key, value in notes.items():
            if key.startswith(_CONTAINER) and key.endswith(suffix):
                return Fraction(parse_quantity(value) // MIB)
    if text := notes.get(FRACTION):
        return Fraction(text) * total
    if text := notes.get(MEMORY):
        return Fraction(int(text))
    return None


def is_limited(pod: Object) -> bool:
    """Whether HAMi-core, a library in the kernel's container, is told how much it may use."""
    kernel = named(dig(pod, "spec", "containers")) or {}
    return any(entry.get("name") == _LIBRARY for entry in kernel.get("env") or [])


def library_limit(amount: Fraction, counted: int, total: int) -> int:
    """MiB that HAMi-core lets a container use of a GPU, where the container counts for ``amount``.

    0: as much as there is. KAI passes on which part of the GPU that is, in two digits after the
    point, once: when it binds the pod (pkg/binder/plugins/hamicore/hami_core.go, and seen with KAI
    of August 2026).

    Parameters
    ----------
    counted: MiB that KAI takes the GPU for.
    total: MiB that it has.
    """
    return int(Fraction(f"{float(amount / counted):.2f}") * total)


def used(pods: Iterable[Object], group: str, total: int, *, without: str = "") -> Fraction:
    """MiB of a group's GPU of ``total`` MiB that pods count for.

    A pod in the group whose amount cannot be read counts for all of it.

    Parameters
    ----------
    without: uid of a pod that is left out.
    """
    found = Fraction(0)
    for pod in pods:
        if (
            group not in groups_of(pod)
            or is_reservation(pod)
            or dig(pod, "metadata", "uid") == without
            or dig(pod, "status", "phase") in _ENDED
        ):
            continue
        try:
            amount = amount_of(pod, total)
        except (ValueError, ZeroDivisionError):
            amount = None
        found += Fraction(total) if amount is None or amount < 0 else amount
    return found


# -- giving a share back, and taking it again ------------------------------------------------------


def given_back(pod: Object) -> bool:
    """Whether a pod has given its share back, or has not yet made sure of it again."""
    return _GIVEN_BACK in _notes(pod)


def original(pod: Object) -> dict[str, Any]:
    """The pod with the share that it comes back to."""
    return noted(pod, {**_before(pod), _GIVEN_BACK: None})


def noted(pod: Object, notes: Mapping[str, Any]) -> dict[str, Any]:
    """A pod as a merge patch of its annotations leaves it."""
    merged = {key: value for key, value in {**_notes(pod), **notes}.items() if value is not None}
    return {**pod, "metadata": {**pod["metadata"], "annotations": merged}}


def shrink(pod: Object, total: int) -> dict[str, Any]:
    """Annotations, as a merge patch, with which a pod counts for next to nothing.

    Every annotation that KAI may read the amount from changes: they have to agree. ``total`` is
    MiB of each of its GPUs.

    Raises
    ------
    ValueError: the pod holds no part of a GPU.
    """
    before = _before(pod) or _amounts(_notes(pod))
    if not before:
        raise ValueError("it holds no part of a GPU")
    patch: dict[str, Any] = {key: f"{_REST}Mi" for key in before if key.startswith(_CONTAINER)}
    if FRACTION in before:
        patch[FRACTION] = decimal(Fraction(_REST, max(total, _REST)))
    if MEMORY in before:
        patch[MEMORY] = str(_REST)
    return {**patch, _GIVEN_BACK: json.dumps(before, sort_keys=True)}


def restore(pod: Object) -> dict[str, Any]:
    """Annotations with which a pod counts for its share again, not yet made sure of."""
    return _before(pod)


def settled() -> dict[str, Any]:
    """Annotations of a pod that has made sure of its share."""
    return {_GIVEN_BACK: None, _BEFORE: None}


# -- another amount --------------------------------------------------------------------------------


def resized(pod: Object, amount: Fraction, total: int) -> dict[str, Any] | None:
    """Annotations with which a pod counts for another amount, under the keys that it has.

    Of a pod that gave its share back it is what it comes back to. None where it cannot have
    another amount while it runs: a limit was set when its container started, by KAI's driver or for
    HAMi-core.

    Parameters
    ----------
    amount: MiB on each of its GPUs of ``total`` MiB.
    """
    before = _before(pod) or _amounts(_notes(pod))
    if not before or is_limited(pod) or any(key.startswith(_CONTAINER) for key in before):
        return None
    notes = {
        FRACTION: decimal(min(amount / total, _MOST)),
        MEMORY: str(int(amount)),
    }
    notes = {key: value for key, value in notes.items() if key in before}
    return {_GIVEN_BACK: json.dumps(notes, sort_keys=True)} if given_back(pod) else notes


def resizing(pod: Object) -> dict[str, Any]:
    """Annotations that go with a larger amount which is not yet made sure of."""
    return {_BEFORE: json.dumps(_amounts(_notes(pod)), sort_keys=True)}


def unresized(pod: Object) -> dict[str, Any]:
    """Annotations with which a pod counts for what it had before; none where it has that."""
    before = _before(pod, _BEFORE)
    return {**before, _BEFORE: None} if _BEFORE in _notes(pod) else {}


def _before(pod: Object, key: str = _GIVEN_BACK) -> dict[str, Any]:
    try:
        before = json.loads(_notes(pod).get(key, "{}"))
    except ValueError:
        return {}
    return _amounts(before) if isinstance(before, dict) else {}


def _amounts(notes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(value)
        for key, value in notes.items()
        if key in (FRACTION, MEMORY) or (key.startswith(_CONTAINER) and key.endswith(_REQUEST))
    }


def _notes(pod: Object) -> Mapping[str, str]:
    notes: Mapping[str, str] = dig(pod, "metadata", "annotations", default={})
    return notes
