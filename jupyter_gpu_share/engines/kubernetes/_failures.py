"""What keeps a pod from running, or ended it, told apart and told in words. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...sentences import say
from .backends import dig

__all__ = [
    "Cause",
    "end_of",
    "end_of_lease",
    "end_of_process",
    "hindrance",
    "no_place",
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
#: Why a node turned a pod away that the scheduler had sent to it; ``OutOf…`` beside these.
_TURNED_AWAY = {
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "NodeName",
    "NodePorts",
    "TopologyAffinityError",
}
_LONGEST = 200


@dataclass(frozen=True)
class Cause:
    """Why. ``kind`` is for programs and logs, ``text`` a sentence for the user.

    ``code`` is the exit code that clients see.
    """

    kind: str
    text: str
    code: int = 1


def hindrance(pod: Object) -> Cause | None:
    """Why a pod that has its place will not come up; None while it still may."""
    for status in _statuses(pod):
        waiting = dig(status, "state", "waiting", default={})
        reason, message = _line(waiting.get("reason", "")), _line(waiting.get("message", ""))
        if reason in _IMAGE:
            return Cause(
                "image",
                f"The image {status.get('image')!r} cannot be had ({reason}): {message or reason}. "
                "Check its name, or choose another kernel.",
            )
        if reason in _CONFIG:
            return _not_made(reason, message)
    return None


def _not_made(reason: str, words: str, code: int = 1) -> Cause:
    text = f"The node could not make the kernel's container ({reason}): {words}. Tell the "
    return Cause("config", text + "administrator.", code)


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
    if phase not in ("Failed", "Succeeded"):
        return _lost(pod)
    if disruption := _disruption(pod):
        return disruption
    reason, message = _line(status.get("reason", "")), _line(status.get("message", ""))
    if reason == "Evicted":
        return Cause(
            "evicted",
            f"The node put the kernel out: {message or 'it was short of memory or disk'}. Restart "
            "it; a larger memory request makes this less likely.",
            137,
        )
    if reason == "DeadlineExceeded":
        return Cause(
            "deadline",
            "The kernel reached the longest life that the administrator allows "
            "(c.KubernetesEngine.longest_life). Restart it.",
            143,
        )
    if reason in ("NodeLost", "NodeShutdown", "Terminated"):
        return Cause(
            "node", f"The kernel's node was lost or shut down ({reason}). Restart it.", 143
        )
    if reason == "Preempting":
        return _RECLAIMED
    if reason in _TURNED_AWAY or reason.startswith("OutOf"):
        return Cause("node", f"The node had no room after all ({reason}): {message}. Try again.")
    said = ": ".join(filter(None, (reason or phase, message)))
    cause = _container(pod) or Cause("ended", f"The kernel's pod has ended ({said}).", 1)
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
            "What held the kernel's share has ended on its node, so the kernel was ended. Restart "
            "it to queue for another.",
            143,
        )
    return Cause(
        "reclaimed",
        "The kernel's share was taken away in the cluster (what held it was deleted, by an "
        "administrator or by the scheduler), so the kernel was ended. Restart it to queue for "
        "another.",
        143,
    )


def _statuses(pod: Object) -> list[Object]:
    """Of all containers, the kernel's first: of two that ended it is the one that counts."""
    kernel = dig(pod, "spec", "containers", 0, "name")
    kinds = ("containerStatuses", "initContainerStatuses")
    found = [status for kind in kinds for status in dig(pod, "status", kind, default=[])]
    return sorted(found, key=lambda status: status.get("name") != kernel)


def end_of_process(code: int, why: str) -> str:
    """Why a kernel has ended whose pod goes on, a sentence for the user.

    Parameters
    ----------
    code: exit code, negative for a signal.
    why: what the agent knows of it; empty where that is nothing.
    """
    if why == "oom":
        return (
            "The kernel was ended for want of memory (of the machine, not of the GPU). Restart it "
            "and use less at a time, or ask for more memory."
        )
    if why == "terminated":
        return "The kernel's pod was told to end from outside. Restart the kernel to get a new one."
    if why:
        return f"The kernel could not run: {why}."
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"The kernel was ended by {name}."
    return f"The kernel ended with code {code}."


def _container(pod: Object) -> Cause | None:
    kernel = dig(pod, "spec", "containers", 0, "name")
    for status in _statuses(pod):
        ended = dig(status, "state", "terminated") or dig(status, "lastState", "terminated")
        if ended is None:
            continue
        name = status.get("name", kernel)
        if name == kernel:
            return _of_kernel(pod, ended)
        if ended.get("exitCode"):
            what = f"The container {name!r} beside the kernel has failed"
            return Cause("config", f"{what}{_said(ended)}. Tell the administrator.")
    return None


def _of_kernel(pod: Object, ended: Object) -> Cause:
    code, reason = int(ended.get("exitCode", 1)), ended.get("reason", "")
    if reason == "OOMKilled":
        limit = _memory_limit(pod)
        return Cause(
            "oom",
            f"The kernel was ended for want of memory{limit} (of the machine, not of the "
            "GPU). Restart it and use less at a time, or ask for more memory.",
            137,
        )
    if reason in ("StartError", "ContainerCannotRun"):
        # The runtime's words begin with a list of its own layers.
        words = _line(str(ended.get("message", "")).rpartition("container process: ")[2])
        if "exec: " not in words:
            return _not_made(reason, words, code)
        return Cause(
            "config",
            f"The image cannot run the kernel ({words}). It needs Python with ipykernel.",
            code,
        )
    if reason == "ContainerStatusUnknown":
        return Cause("node", "The kernel's node has lost it, as after a reboot. Restart it.", 143)
    if code == 137:
        return Cause("killed", "The kernel's pod was killed from outside (SIGKILL).", 137)
    return Cause("ended", f"The kernel's pod has ended{_said(ended)}.", code)


def _said(ended: Object) -> str:
    """With what code a container ended, and the last thing that it said."""
    last = _last_line(ended.get("message", ""))
    return f" with code {ended.get('exitCode', 1)}" + (f": {last.rstrip('.')}" if last else "")


_DELETED = Cause(
    "deleted",
    "The kernel's pod was deleted in the cluster, by an administrator or by the scheduler. "
    "Restart the kernel to get a new one.",
    143,
)
_RECLAIMED = Cause(
    "reclaimed",
    "The kernel's share was reclaimed for work of higher priority. Restart it to queue for "
    "another.",
    143,
)
#: By the reason that the cluster gives for taking a pod away.
_DISRUPTIONS = {
    "PreemptionByScheduler": _RECLAIMED,
    "EvictionByEvictionAPI": Cause(
        "evicted",
        "The kernel's pod was evicted, as when a node is emptied for maintenance. Restart it.",
        143,
    ),
    "DeletionByTaintManager": Cause(
        "node", "The kernel's node was lost, or taken out of service. Restart it.", 143
    ),
    "DeletionByPodGC": Cause("node", "The kernel's node is gone. Restart it.", 143),
    "DeletionByDeviceTaintManager": Cause(
        "node", "The kernel's GPU was taken out of service. Restart it.", 143
    ),
}


def _disruption(pod: Object) -> Cause | None:
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = _line(condition.get("reason", ""))
            if reason == "TerminationByKubelet":
                return None  # the pod's own reason says more
            return _DISRUPTIONS.get(reason) or Cause(
                "evicted", f"The kernel's pod was evicted ({reason}). Restart it.", 143
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
        return Cause("node", "The kernel's node was lost. Restart it to get another place.", 143)
    return None


def _memory_limit(pod: Object) -> str:
    limit = dig(pod, "spec", "containers", 0, "resources", "limits", "memory")
    return f", its limit is {limit}" if limit else ""


_SKIPPED = re.compile(r"preemption: .*$")


def no_place(message: str) -> str:
    """That a pod waits, with the scheduler's words but for those that only concern preemption."""
    words = _line(_SKIPPED.sub("", message)).rstrip(". ")
    return say("no-place", cause=words)


def _line(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return _line(lines[-1]) if lines else ""
