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
    # Of what has to be up before the kernel's container.
    "BackOff",
    "FailedPostStartHook",
    "Unhealthy",
}
#: What comes after it.
_GOES_ON = {"SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started"}


def told_by(pod: Object, events: Iterable[Object]) -> str:
    """What keeps a placed pod's container from being made.

    By Events from old to new; where they tell of no trouble, which containers come before it.
    """
    for event in reversed(list(events)):
        reason = event.get("reason", "")
        if reason in _GOES_ON:
            break
        if reason in _TROUBLE:
            return _says(reason, event.get("message"))
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "Initialized" and condition.get("status") == "False":
            return _says(condition.get("reason") or "Initialized", condition.get("message"))
    return ""


def _says(reason: str, message: str | None) -> str:
    cause = words_on((message or reason).rstrip(". \n"))
    return say("node-says", reason=words_on(reason), cause=cause)
