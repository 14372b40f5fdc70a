"""What a node says while it prepares a kernel's container: Events, told in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...sentences import say
from ._words import words_on

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
#: What comes after it.
_GOES_ON = {"SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started"}


def told_by(events: Iterable[Object]) -> str:
    """What keeps a placed pod's container from being made, by Events from old to new."""
    for event in reversed(list(events)):
        reason = event.get("reason", "")
        if reason in _GOES_ON:
            return ""
        if reason in _TROUBLE:
            cause = words_on((event.get("message") or reason).rstrip(". \n"))
            return say("node-says", reason=reason, cause=cause)
    return ""
