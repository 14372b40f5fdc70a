"""What Kueue does with a kernel's pod, told in words. Pure.

Kueue puts a gate before the scheduler: a pod with the name of a LocalQueue waits for the quota of
that queue. Why it waits stands in the Events of the pod's Workload; a pod that is taken out again
has the reason in a condition (Kueue 0.17: ``pkg/scheduler/flavorassigner``,
``pkg/controller/jobs/pod``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...sentences import say
from ._words import words_on
from .backends import dig

__all__ = [
    "GATE",
    "QUEUE",
    "events_of",
    "gated",
    "put_out",
    "queue_name",
    "waits_for",
    "workload_events",
    "wrong_queue",
]

Object = Mapping[str, Any]

#: Label with the name of the LocalQueue.
QUEUE = "kueue.x-k8s.io/queue-name"
GATE = "kueue.x-k8s.io/admission"

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)
#: An Event of the pod that names its Workload.
_CREATED = re.compile(r"Created Workload: [^/\s]+/(\S+)")
_BEFORE = re.compile(r"couldn't assign flavors to pod set \S+: ")
#: Earlier versions name the cohort, and what is asked for beside the most.
_USED_UP = re.compile(
    r"insufficient unused quota (?:in cohort )?for (\S+) in flavor \S+?, (\S+) more needed"
)
_NEVER = re.compile(
    r"insufficient quota for (\S+) in flavor \S+?, .*?> maximum capacity \((?:\S+ > )?(\S+?)\)"
)


def queue_name(pod: Object) -> str:
    """The LocalQueue by which a pod is admitted; empty: none."""
    found: str = dig(pod, "metadata", "labels", QUEUE, default="")
    return found


def wrong_queue(name: str) -> str | None:
    """What is wrong with the name of a LocalQueue, the end of a sentence; None: nothing."""
    if not name or (len(name) <= 63 and _NAME.fullmatch(name)):
        return None
    return f"{name!r} is no name of a LocalQueue: lower-case letters, digits, hyphens and dots"


def gated(pod: Object) -> bool:
    """Whether a pod waits for Kueue: no scheduler has seen it yet."""
    return any(gate.get("name") == GATE for gate in dig(pod, "spec", "schedulingGates", default=[]))


def events_of(events: Iterable[Object]) -> str:
    """Field selector of the Events of a pod's Workload, by those of the pod; empty: none known."""
    for event in events:
        found = _CREATED.fullmatch(event.get("message") or "")
        if event.get("reason") == "CreatedWorkload" and found:
            return workload_events(found[1])
    return ""


def workload_events(name: str) -> str:
    """Field selector of the Events of a Workload."""
    return f"involvedObject.kind=Workload,involvedObject.name={name}"


def waits_for(pod: Object, events: Iterable[Object]) -> str:
    """Why a gated pod waits, by the Events of its Workload from old to new; empty for nothing."""
    for event in reversed(list(events)):
        if event.get("reason") == "Pending":
            return _quota(queue_name(pod), " ".join((event.get("message") or "").split()))
    return ""


def _quota(queue: str, message: str) -> str:
    used = {found[1]: found[2] for found in _USED_UP.finditer(message)}
    for found in _NEVER.finditer(message):
        # Of a resource with several flavors another one may have it.
        if found[1] not in used:
            return say("kueue-never", queue=queue, resource=found[1], most=found[2])
    if used:
        needed = ", ".join(f"{amount} of {resource}" for resource, amount in used.items())
        return say("kueue-quota", queue=queue, needed=needed)
    cause = words_on(_BEFORE.sub("", message).rstrip(". "))
    return say("kueue-waits", queue=queue, cause=cause) if cause else ""


#: Sentences by the reason that Kueue gives for taking a pod out again.
_PUT_OUT = {
    "Preempted": "kueue-preempted",
    "Deactivated": "kueue-stopped",
    "ClusterQueueStopped": "kueue-stopped",
    "LocalQueueStopped": "kueue-stopped",
}


def put_out(pod: Object) -> tuple[str, str] | None:
    """Kind of the cause and a sentence for the user, where Kueue has taken a pod out again."""
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "TerminationTarget" and condition.get("status") == "True":
            reason = str(condition.get("reason", ""))
            base = reason.removeprefix("WorkloadEvictedDueTo")
            queue = queue_name(pod)
            if sentence := _PUT_OUT.get(base):
                return "reclaimed", say(sentence, queue=queue)
            cause = words_on(str(condition.get("message") or reason))
            return "evicted", say("kueue-put-out", queue=queue, cause=cause.rstrip(". "))
    return None
