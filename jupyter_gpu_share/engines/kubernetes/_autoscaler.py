"""What the cluster's autoscaler says about pods that have no place: Events, told in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._words import words_on

__all__ = ["told_by"]

Object = Mapping[str, Any]

#: Reasons by which Cluster Autoscaler and Karpenter tell that a node comes.
_COMING = ("TriggeredScaleUp", "Nominated")
#: That none comes, and what stands before the cause. The scheduler has the second reason, too.
_NONE = {
    "NotTriggerScaleUp": "pod didn't trigger scale-up: ",
    "FailedScheduling": "Failed to schedule pod, ",
}


def told_by(events: Iterable[Object]) -> str:
    """What an autoscaler has said last of a pod, by Events from old to new; empty for nothing."""
    return next((words for event in reversed(list(events)) if (words := _words(event))), "")


def _words(event: Object) -> str:
    reason, message = event.get("reason", ""), " ".join((event.get("message") or "").split())
    if reason in _COMING:
        return "The cluster's autoscaler brings a node for it, which takes some minutes."
    before = _NONE.get(reason)
    if before is None or not message.startswith(before):
        return ""
    cause = words_on(message[len(before) :].rstrip(". "))
    return f"The cluster's autoscaler brings no node for it: {cause}."
