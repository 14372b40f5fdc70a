"""What is written on the pods of all users' kernels, and read from them by the next broker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..._text import moment_in, written
from ...engines.kubernetes._names import PART, PREFIX, SERVER, annotation, hub_server_name, label
from ...engines.kubernetes._objects import HUB_SERVER, HUB_USER, KernelPlan, Owner
from ...engines.kubernetes._pods import size_of
from ...errors import SizeError
from ..idle import Promise
from .presence import Process
from .ruling import Key

__all__ = [
    "Found",
    "asked_of",
    "born_of",
    "found_on",
    "groups_of",
    "is_brokered",
    "key_of_owner",
    "newest",
    "number_of",
    "owner_of",
    "words_of_promise",
]

#: Annotations: which start of the kernel it is, and the user's groups as they were proven then.
_START, _GROUPS = PREFIX + "start", PREFIX + "groups"
#: When it was asked for: the cluster's own word knows whole seconds alone, in which many may be.
#: Which of its process's starts it is, by that process's word.
_ASKED, _NUMBER = PREFIX + "asked", PREFIX + "number"
#: When the Hub's user was made, in the Hub's words.
_BORN = PREFIX + "user-made"
#: Since when its idle share is asked back, and until when its server has time to give it.
_PROMISE = PREFIX + "promise"


_DIGITS = re.compile(r"[0-9]{1,16}")


def owner_of(
    process: Process,
    attempt: str,
    groups: frozenset[str],
    asked: datetime | None = None,
    number: int | None = None,
    born: str = "",
) -> Owner:
    """Whose the objects of a kernel are, by what is proven of its server.

    Parameters
    ----------
    asked: when the kernel was asked for, aware; None where that counts no more.
    number: which of the process's starts it is; None where it has not said.
    born: see :class:`Caller <.callers.Caller>`.
    """
    owner = Owner.of_hub(*process)
    own = {_START: attempt, _GROUPS: json.dumps(sorted(groups))}
    if asked is not None:
        own[_ASKED] = written(asked, "microseconds")
    if number is not None:
        own[_NUMBER] = str(number)
    if born:
        own[_BORN] = born
    return Owner(owner.server, owner.instance, owner.user, {**owner.notes, **own})


def key_of_owner(owner: Owner, kernel_id: str) -> Key:
    """The name of an owner's kernel among all users'."""
    return Key(owner.notes[HUB_USER], owner.notes[HUB_SERVER], kernel_id)


def asked_of(owner: Owner) -> datetime | None:
    """When the kernel was asked for, as :func:`owner_of` was told, aware; None: nobody knows."""
    return _moment(owner.notes.get(_ASKED, ""))


def born_of(owner: Owner) -> str:
    """When the Hub's user was made, as :func:`owner_of` was told; empty: nobody knows."""
    return owner.notes.get(_BORN, "")


def number_of(owner: Owner) -> int | None:
    """Which of its process's starts it is, as :func:`owner_of` was told; None: nobody knows."""
    return _number(owner.notes.get(_NUMBER, ""))


def _number(text: str) -> int | None:
    return int(text) if _DIGITS.fullmatch(text) else None


def _moment(text: str) -> datetime | None:
    try:
        return moment_in(text)
    except ValueError:
        return None


def groups_of(owner: Owner) -> frozenset[str]:
    """The groups of the owner's user."""
    return _groups(owner.notes.get(_GROUPS, "[]"))


def is_brokered(obj: Mapping[str, Any]) -> bool:
    """Whether an object is of a kernel that a broker has made; others' are not its business."""
    notes = obj["metadata"].get("annotations") or {}
    if HUB_USER not in notes or HUB_SERVER not in notes:
        return False
    return label(obj, SERVER) == hub_server_name(notes[HUB_USER], notes[HUB_SERVER])


@dataclass(frozen=True)
class Found:
    """A kernel of a user, as its pod tells of it.

    Attributes
    ----------
    promise: what was promised of its idle share; None for nothing.
    """

    key: Key
    attempt: str
    plan: KernelPlan
    owner: Owner
    groups: frozenset[str]
    name: str
    created: str = ""
    promise: Promise | None = None


def newest(found: Iterable[Found]) -> tuple[list[Found], list[Found]]:
    """Of each kernel the pod that was made last, and those that are to go.

    There are several where a broker ended between the start of the next one and the end of the
    last.
    """
    last: dict[Key, Found] = {}
    spare = []
    for each in sorted(found, key=lambda each: each.created):
        if each.key in last:
            spare.append(last[each.key])
        last[each.key] = each
    return list(last.values()), spare


def found_on(pod: Mapping[str, Any]) -> Found | None:
    """What a pod tells of its kernel; None where it is none of a broker's, or on its way out."""
    meta = pod["metadata"]
    if label(pod, PART) != "kernel" or meta.get("deletionTimestamp") or not is_brokered(pod):
        return None
    try:
        size = size_of(pod)
    except SizeError:
        return None
    notes, kernel_id = meta["annotations"], annotation(pod, "kernel-id")
    process = Process(notes[HUB_USER], notes[HUB_SERVER], annotation(pod, "instance"))
    attempt, groups = notes.get(_START, ""), _groups(notes.get(_GROUPS, "[]"))
    return Found(
        key=Key(process.user, process.server, kernel_id),
        attempt=attempt,
        plan=KernelPlan(
            kernel_id=kernel_id,
            kernel_name=annotation(pod, "kernel-name"),
            size=size,
            path=annotation(pod, "path") or None,
        ),
        owner=owner_of(
            process,
            attempt,
            groups,
            _moment(notes.get(_ASKED, "")),
            _number(notes.get(_NUMBER, "")),
            notes.get(_BORN, ""),
        ),
        groups=groups,
        name=meta["name"],
        created=notes.get(_ASKED) or meta.get("creationTimestamp") or "",
        promise=_promise(notes.get(_PROMISE, "")),
    )


def words_of_promise(promise: Promise | None) -> dict[str, str | None]:
    """Annotations of a kernel's pod that tell what is promised of its idle share; None: nothing."""
    if promise is None:
        return {_PROMISE: None}
    moments = (promise.asked, promise.due)
    return {_PROMISE: " ".join(written(each, "microseconds") for each in moments)}


def _promise(text: str) -> Promise | None:
    asked, _, due = text.partition(" ")
    begins, ends = _moment(asked), _moment(due)
    return Promise(begins, ends) if begins is not None and ends is not None else None


def _groups(text: str) -> frozenset[str]:
    try:
        groups = json.loads(text)
    except ValueError:
        return frozenset()
    return frozenset(each for each in groups if isinstance(each, str))
