"""What a node says while it prepares a kernel's container, told in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...sentences import say
from ._words import words_on
from .backends import dig

__all__ = ["told_by"]

Object = Mapping[str, Any]

#: What the node tries again, and nothing else tells: images are in the pod's status.
_TROUBLE = {
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedPrepareDynamicResources",
    "NetworkNotReady",
}
#: The same of what has to be up before the kernel's container, while it is not up.
_BEFORE = {"BackOff", "FailedPostStartHook", "Unhealthy"}
#: What comes after it.
_GOES_ON = {"SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started"}


def told_by(pod: Object, events: Iterable[Object]) -> str:
    """What keeps a placed pod's container from being made.

    By Events from old to new; where they tell of no trouble, which containers come before it.
    """
    before = _not_done(pod)
    for event in reversed(list(events)):
        reason = event.get("reason", "")
        if reason in _GOES_ON:
            break
        if reason in _TROUBLE or (before is not None and reason in _BEFORE):
            return _says(reason, event.get("message"))
    if before is not None:
        return _says(before.get("reason") or "Initialized", before.get("message"))
    return ""


def _not_done(pod: Object) -> Object | None:
    """What the node says of containers before the kernel's that are not done, or not up."""
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "Initialized" and condition.get("status") == "False":
            told: Object = condition
            return told
    return None


def _says(reason: str, message: str | None) -> str:
    cause = words_on((message or reason).rstrip(". \n"))
    return say("node-says", reason=words_on(reason), cause=cause)
