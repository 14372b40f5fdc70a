"""Which claims make up the share of a pod. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ._names import KERNEL, PART, annotation, label

__all__ = ["share_of_pods"]

Object = dict[str, Any]


def share_of_pods(
    pods: Mapping[str, Object], claims: Mapping[str, Object], allocated: Callable[[Object], bool]
) -> dict[str, list[Object]]:
    """The claims of each pod's share, by the pod's name.

    A pod's own claims are named as it is. In style ``lease`` they are no share of themselves: what
    its kernel rests on stays when the share goes back.

    Parameters
    ----------
    pods, claims: of one server, by name.
    allocated: whether a claim holds something.
    """
    found: dict[str, list[Object]] = {}
    leases: dict[str, list[Object]] = {}
    for name, claim in claims.items():
        if label(claim, PART) == "lease":
            leases.setdefault(label(claim, KERNEL), []).append(claim)
        for end in (n for n, letter in enumerate(name) if letter == "-"):
            if name[:end] in pods:
                found.setdefault(name[:end], []).append(claim)
    for name, pod in pods.items():
        if annotation(pod, "style") == "lease":
            held = leases.get(label(pod, KERNEL), [])
            whole = bool(held) and all(allocated(claim) for claim in held)
            found[name] = [*held, *found.get(name, [])] if whole else []
    return found
