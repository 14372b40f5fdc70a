"""What keeps a pod from running, or ended it, told apart and told in words. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...sentences import paragraph, say
from . import _kueue as kueue
from ._words import words_on
from .backends import CONTAINER, dig, named

__all__ = [
    "Cause",
    "end_of",
    "end_of_lease",
    "end_of_process",
    "for_want_of_more",
    "hindrance",
    "is_evicted",
    "no_place",
    "removal_of",
    "unschedulable",
]

Object = Mapping[str, Any]

_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
#: What the node tries again by itself; the first unless it says that there is no sense in it.
_PULLED_AGAIN = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
_MADE_AGAIN = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
#: By a reason or by its words: there is no such image, or not for those who ask.
_NO_SUCH_IMAGE = {"InvalidImageName", "ErrImageNeverPull"}
_NO_SUCH = re.compile(
    r"not found|(manifest|name|repository)[ _]unknown|unauthorized|authentication required|denied"
    r"|forbidden|no match for platform|does not exist|invalid reference|\b40[134]\b",
    re.IGNORECASE,
)
#: What else there is no sense in, such as a certificate by an unknown authority.
_SENSELESS = re.compile(r"unknown", re.IGNORECASE)
#: A registry that says such a thing is asked again, whatever else it says.
_BUSY = re.compile(r"too ?many ?requests|quota exceeded|\b(429|50[0234])\b", re.IGNORECASE)
#: The codes of gRPC, and what is quoted.
_NAMES = re.compile(r'rpc error: code = \w+|"[^"]*"')
#: Of a container that could not be made: it may be another time. A GPU's driver tells the runtime
#: of its devices (CDI) a moment after the node does.
_PASSING = re.compile(
    r"deadline exceeded|timed? ?out|is reserved|try again|connection refused|unavailable"
    r"|unresolvable CDI",
    re.IGNORECASE,
)
#: Why a node turned a pod away that the scheduler had sent to it; ``OutOf…`` beside these.
_TURNED_AWAY = {
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "NodeName",
    "NodePorts",
    "SMTAlignmentError",
    "TaintToleration",
    "TopologyAffinityError",
}


@dataclass(frozen=True)
class Cause:
    """Why. ``kind`` is for programs and logs, ``text`` a sentence for the user.

    ``code`` is the exit code that clients see. ``passing``: the node tries again by itself; while
    it does, ``what`` is all that there is to say.
    """

    kind: str
    text: str
    code: int = 1
    passing: bool = False
    what: str = ""


def hindrance(pod: Object) -> Cause | None:
    """Why a pod that has its place does not come up; None where nothing is known to hinder it.

    What stands beside the kernel does not: its container is made all the same.
    """
    for status in _needed(pod):
        waiting = dig(status, "state", "waiting", default={})
        reason, words = words_on(waiting.get("reason", "")), waiting.get("message") or ""
        message = words_on(words)
        if reason in _IMAGE:
            what = say(
                "image-not-had",
                image=repr(status.get("image")),
                reason=reason,
                cause=message or reason,
            )
            passing, advice = _of_image(reason, _without_names(words))
            return Cause("image", paragraph(what, say(advice)), passing=passing, what=what)
        if reason in _CONFIG:
            passing = reason in _MADE_AGAIN and _PASSING.search(message) is not None
            return _not_made(reason, message, passing=passing)
        if reason == "CrashLoopBackOff":
            # A sidecar that has to be up before the kernel's container is made.
            ended = dig(status, "lastState", "terminated", default={})
            text = _with_code("beside-failed", ended, name=repr(status.get("name")))
            return Cause("config", text, passing=True, what=text)
    return None


def _needed(pod: Object) -> list[Object]:
    """What is told of the kernel's container, and of those that have to be up or done before it.

    Nothing where it runs: a sidecar that is begun again later is no matter of the kernel's.
    """
    kernel = named(dig(pod, "status", "containerStatuses"))
    if dig(kernel, "state", "running") is not None:
        return []
    before = dig(pod, "status", "initContainerStatuses", default=[])
    return [*([kernel] if kernel else []), *before]


def _without_names(words: str) -> str:
    """Words about an image without names and addresses, which say nothing of the cause."""
    return " ".join(word for word in _NAMES.sub("", words).split() if "/" not in word)


def _of_image(reason: str, words: str) -> tuple[bool, str]:
    """Whether the node may get the image another time, and the sentence that says what to do."""
    if reason in _NO_SUCH_IMAGE:
        return False, "image-by-name"
    if reason in _PULLED_AGAIN:
        if _BUSY.search(words):
            return True, "image-later"
        if _NO_SUCH.search(words):
            return False, "image-by-name"
        if not _SENSELESS.search(words):
            return True, "image-later"
    return False, "tell-administrator"


def _not_made(reason: str, words: str, code: int = 1, *, passing: bool = False) -> Cause:
    what = say("container-not-made", reason=reason, cause=words)
    return Cause("config", paragraph(what, say("tell-administrator")), code, passing, what)


def unschedulable(pod: Object) -> str | None:
    """The scheduler's words about a pod that has no place yet; None where it has said nothing."""
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message: str = condition.get("message") or condition.get("reason") or ""
            return message
    return None


def end_of(pod: Object | None, last: Object | None) -> Cause | None:
    """Why a kernel's pod has ended; None while it has not.

    Parameters
    ----------
    pod: as it is now; None where it was deleted.
    last: as it was before it was deleted.
    """
    if pod is None:
        return _deleted(last)
    status = pod.get("status") or {}
    phase = status.get("phase")
    if phase not in ("Failed", "Succeeded") and not _over(pod):
        return _lost(pod)
    if disruption := _disruption(pod):
        return disruption
    reason, message = words_on(status.get("reason", "")), words_on(status.get("message", ""))
    if reason == "Evicted":
        return Cause(
            "evicted",
            say("put-out", cause=message) if message else say("put-out-for-room"),
            137,
        )
    if reason == "DeadlineExceeded":
        return Cause(
            "deadline",
            say("longest-life"),
            143,
        )
    if reason in ("NodeLost", "NodeShutdown", "Terminated"):
        return Cause("node", say("node-lost-or-down", reason=reason), 143)
    if reason == "Preempting":
        return _RECLAIMED
    if reason in _TURNED_AWAY or reason.startswith("OutOf"):
        return Cause("node", say("node-without-room", reason=reason, cause=message))
    said = ": ".join(filter(None, (reason or phase, message)))
    cause = _container(pod) or Cause("ended", say("pod-ended", cause=said), 1)
    deleted = dig(pod, "metadata", "deletionTimestamp") is not None
    return _DELETED if deleted and cause.kind in ("ended", "killed") else cause


def end_of_lease(pod: Object | None, last: Object | None) -> Cause:
    """Why a kernel whose share is held beside it has lost the share.

    Parameters
    ----------
    pod: the pod that holds it, as it is now; None where it was deleted.
    last: what held it, as it was before it was deleted, if that is known.
    """
    if last is not None and (disruption := _disruption(last)):
        return disruption
    if pod is not None and dig(pod, "metadata", "deletionTimestamp") is None and end_of(pod, None):
        return Cause(
            "node",
            say("holder-ended"),
            143,
        )
    return Cause(
        "reclaimed",
        say("share-taken"),
        143,
    )


def _over(pod: Object) -> bool:
    """Whether the kernel's container has ended: what stands beside it may keep the pod running."""
    kernel = named(dig(pod, "status", "containerStatuses"))
    return dig(kernel, "state", "terminated") is not None


def _statuses(pod: Object) -> list[Object]:
    """Of all containers, the kernel's first: of two that ended it is the one that counts."""
    kinds = ("containerStatuses", "initContainerStatuses")
    found = [status for kind in kinds for status in dig(pod, "status", kind, default=[])]
    return sorted(found, key=lambda status: status.get("name") != CONTAINER)


def end_of_process(code: int, why: str) -> str:
    """Why a kernel has ended whose pod goes on, a sentence for the user.

    Parameters
    ----------
    code: exit code, negative for a signal.
    why: what the agent knows of it; empty where that is nothing.
    """
    if why == "oom":
        return say("no-memory")
    if why == "terminated":
        return say("pod-told-to-end")
    if why:
        return say("could-not-run", cause=why)
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return say("ended-by-signal", name=name)
    return say("ended-with-code", code=code)


def _container(pod: Object) -> Cause | None:
    for status in _statuses(pod):
        ended = dig(status, "state", "terminated") or dig(status, "lastState", "terminated")
        if ended is None:
            continue
        name = status.get("name", CONTAINER)
        if name == CONTAINER:
            return _of_kernel(pod, ended)
        if ended.get("exitCode"):
            return Cause("config", _with_code("beside-failed", ended, name=repr(name)))
    return None


def _of_kernel(pod: Object, ended: Object) -> Cause:
    code, reason = int(ended.get("exitCode", 1)), ended.get("reason", "")
    if reason == "OOMKilled":
        limit = _memory_limit(pod)
        return Cause(
            "oom",
            say("no-memory-in-limit", limit=limit) if limit else say("no-memory"),
            137,
        )
    if reason in ("StartError", "ContainerCannotRun"):
        # The runtime's words begin with a list of its own layers.
        words = words_on(str(ended.get("message", "")).rpartition("container process: ")[2])
        if "exec: " not in words:
            return _not_made(reason, words, code)
        return Cause(
            "config",
            say("image-not-run", cause=words),
            code,
        )
    if reason == "ContainerStatusUnknown":
        return Cause("node", say("node-lost-it"), 143)
    if code == 137:
        return Cause("killed", say("pod-killed"), 137)
    return Cause("ended", _with_code("pod-ended-with-code", ended), code)


def _with_code(sentence: str, ended: Object, **values: object) -> str:
    """A sentence with the code of a container that ended, and the last thing that it said."""
    last = _last_line(ended.get("message", "")).rstrip(".")
    values["code"] = int(ended.get("exitCode", 1))
    return say(f"{sentence}-said", cause=last, **values) if last else say(sentence, **values)


_DELETED = Cause(
    "deleted",
    say("pod-deleted"),
    143,
)
_RECLAIMED = Cause(
    "reclaimed",
    say("share-reclaimed"),
    143,
)
#: By the reason that the cluster gives for taking a pod away.
_DISRUPTIONS = {
    "PreemptionByScheduler": _RECLAIMED,
    "EvictionByEvictionAPI": Cause(
        "evicted",
        say("pod-evicted-for-work"),
        143,
    ),
    "DeletionByTaintManager": Cause("node", say("node-out-of-service"), 143),
    "DeletionByPodGC": Cause("node", say("node-gone"), 143),
    "DeletionByDeviceTaintManager": Cause("node", say("gpu-out-of-service"), 143),
}


#: The same while the pod is still there, and what is in it may be saved.
_REMOVALS = {
    "PreemptionByScheduler": say("removed-for-work"),
    "EvictionByEvictionAPI": say("removed-by-eviction"),
    "DeletionByTaintManager": say("removed-from-node"),
    "DeletionByPodGC": say("removed-from-node"),
    "DeletionByDeviceTaintManager": say("removed-from-gpu"),
    "TerminationByKubelet": say("removed-by-node"),
}


def is_evicted(pod: Object) -> bool:
    """Whether the pod was evicted by the API that drains use, or by the taint of a drain."""
    drains = ("EvictionByEvictionAPI", "DeletionByTaintManager")
    return any(
        condition.get("type") == "DisruptionTarget"
        and condition.get("status") == "True"
        and condition.get("reason") in drains
        for condition in dig(pod, "status", "conditions", default=[])
    )


def removal_of(pod: Object, *, by_scheduler: bool) -> str:
    """Why a pod is to end that nobody here has ended, a sentence for the user.

    Parameters
    ----------
    pod: as it is now.
    by_scheduler: one that leaves no word in the pod may have done it.
    """
    if by_kueue := kueue.put_out(pod):
        return by_kueue[1]
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = words_on(condition.get("reason", ""))
            return _REMOVALS.get(reason) or say("removed-by-other", reason=reason)
    if dig(pod, "metadata", "deletionTimestamp") is None:
        return say("removed-by-node")  # by its agent's word: the cluster has not said why
    return say("removed-by-scheduler") if by_scheduler else say("removed-by-deletion")


def _disruption(pod: Object) -> Cause | None:
    if by_kueue := kueue.put_out(pod):
        kind, words = by_kueue
        return Cause(kind, paragraph(words, say("restart-queues")), 143)
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = words_on(condition.get("reason", ""))
            if reason == "TerminationByKubelet":
                return None  # the pod's own reason says more
            return _DISRUPTIONS.get(reason) or Cause(
                "evicted", say("pod-evicted", reason=reason), 143
            )
    return None


def _deleted(last: Object | None) -> Cause:
    if last is not None:
        if disruption := _disruption(last):
            return disruption
        known = (
            end_of(last, None) if dig(last, "status", "phase") in ("Failed", "Succeeded") else None
        )
        if known is not None and known.kind != "killed":
            return known
    return _DELETED


def _lost(pod: Object) -> Cause | None:
    if dig(pod, "status", "reason") == "NodeLost":
        return Cause("node", say("node-lost"), 143)
    return None


def _memory_limit(pod: Object) -> str:
    limit = dig(named(dig(pod, "spec", "containers")), "resources", "limits", "memory")
    return str(limit or "")


#: What a node can lack beside GPUs.
_MORE = re.compile(r"Insufficient (cpu|memory|ephemeral-storage|pods|hugepages)|Too many pods")
#: Of nodes that are away for a while: there may be the GPUs, and nobody uses them.
_AWAY = re.compile(
    r"node\(s\) were unschedulable"
    r"|untolerated taint \{(node\.kubernetes\.io/|karpenter\.sh/|ToBeDeletedByClusterAutoscaler)"
)
_NODES = re.compile(r"0/(\d+) nodes are available: ([^.]*(?:\.\S[^.]*)*)")


def for_want_of_more(message: str) -> bool:
    """Whether by the scheduler's words a node lacks something else than GPUs, or is away.

    That other nodes have no GPU is true then, and not why the pod waits.
    """
    if _AWAY.search(message):
        return True
    if not _MORE.search(message):
        return False
    if (told := _NODES.match(message)) is None:
        return True
    # A node that lacks several resources is told with each, and else with one reason alone.
    resources, others = [0], 0
    for number, what in re.findall(r"\b(\d+) ([^,]+)", told[2]):
        if "Insufficient " in what and "/" in what:
            resources.append(int(number))
        elif not _MORE.search(what):
            others += int(number)
    return max(resources) + others < int(told[1])


_SKIPPED = re.compile(r"preemption: .*$")


def no_place(message: str) -> str:
    """That a pod waits, with the scheduler's words but for those that only concern preemption."""
    words = words_on(_SKIPPED.sub("", message)).rstrip(". ")
    return say("no-place", cause=words)


def _last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return words_on(lines[-1]) if lines else ""
