"""What KAI's queues have room for, by KAI's own rule. Pure.

KAI asks its queues when it places a pod, and never again: a patch of a pod that runs may take it
beyond them. The rule is that of KAI's scheduler (pkg/scheduler/plugins/proportion/capacity_policy):
no queue, nor any above it, holds more than its limit, and what cannot be taken away again not more
than its quota.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ._base import Object, dig
from ._nodes import GPU
from ._quantity import exact_quantity

__all__ = ["parent_of", "without_room"]

_UNLIMITED = -1


def parent_of(queue: Object) -> str:
    """The queue above; empty: none."""
    found: str = dig(queue, "spec", "parentQueue", default="")
    return found


def without_room(queues: Sequence[Object], more: Fraction, *, preemptible: bool) -> str | None:
    """Why a pod cannot have so many GPUs more, in words; None: it can.

    Parameters
    ----------
    queues: the pod's queue, and all above it.
    preemptible: whether KAI may take the pod's GPUs away again.
    """
    for queue in queues:
        name = dig(queue, "metadata", "name")
        limit = _bound(queue, "limit")
        if _beyond(limit, _held(queue, "allocated"), more):
            return (
                f"The limit of the queue {name} is reached: it is {_plain(limit)} GPUs; others of "
                "the queue hold the rest."
            )
        quota = _bound(queue, "quota")
        if not preemptible and _beyond(quota, _held(queue, "allocatedNonPreemptible"), more):
            return (
                f"The quota of the queue {name} is used up: it is {_plain(quota)} GPUs; others of "
                "the queue hold the rest."
            )
    return None


def _beyond(bound: Fraction, held: Fraction, more: Fraction) -> bool:
    return bound != _UNLIMITED and held + more > bound


def _bound(queue: Object, what: str) -> Fraction:
    """A bound on GPUs; to KAI one that is not written is 0."""
    return Fraction(str(dig(queue, "spec", "resources", "gpu", what, default=0)))


def _held(queue: Object, what: str) -> Fraction:
    """GPUs that the queue's controller last counted."""
    return exact_quantity(dig(queue, "status", what, GPU, default=0))


def _plain(number: Fraction) -> str:
    return f"{float(number):g}"
