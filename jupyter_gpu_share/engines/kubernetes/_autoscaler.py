"""What the cluster's autoscaler says about pods that have no place: Events, told in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ._words import words_on

__all__ = ["told_by"]

Object = Mapping[str, Any]

#: Reasons by which Cluster Autoscaler and Karpenter tell that a node comes.
_COMING = ("TriggeredScaleUp", "Nominated")
#: That none comes, and what of the message is the cause. The scheduler has the last reason, too.
_NONE = {
    # Older ones, and GKE's, say in brackets what they mean, with the causes after it or none.
    "NotTriggerScaleUp": re.compile(
        r"pod didn't trigger scale-up(?: \((?P<only>[^)]*)\))?(?:: (?P<cause>.*))?"
    ),
    # GKE's, where the cloud has no such machine, or the project no quota of them.
    "FailedScaleUp": re.compile(
        r"(?:Node scale up .*? failed: )?(?P<cause>.*?)"
        r"(?P<only>)(?:\. Pod is at risk of not being scheduled)?"
    ),
    "FailedScheduling": re.compile(r"Failed to schedule pod, (?P<cause>.*)(?P<only>)"),
}


def told_by(events: Iterable[Object]) -> str:
    """What an autoscaler has said last of a pod, by Events from old to new; empty for nothing."""
    return next((words for event in reversed(list(events)) if (words := _words(event))), "")


def _words(event: Object) -> str:
    reason, message = event.get("reason", ""), " ".join((event.get("message") or "").split())
    if reason in _COMING:
        return "The cluster's autoscaler brings a node for it, which takes some minutes."
    told = _NONE[reason].fullmatch(message.rstrip(". ")) if reason in _NONE else None
    cause = words_on(told["cause"] or told["only"]) if told is not None else ""
    return f"The cluster's autoscaler brings no node for it: {cause}." if cause else ""
