"""Strategic merge of additions into a pod, as Kubernetes merges patches. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["merge"]

_DIRECTIVE = "$patch"
#: Lists of objects that are merged by a key of theirs; all other lists are replaced as a whole.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
}
#: Lists of plain values: what is new is added.
_UNIONS = {"finalizers"}


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``patch`` laid over it; neither is changed, nothing is shared with them.

    A value of None removes the key. Lists of named things (containers, volumes, environment) are
    merged by name, and ``{"$patch": "delete", "name": …}`` removes one of them. With
    ``{"$patch": "replace"}`` in it an object, or such a list, takes the place of what was there.
    New things come last, so the kernel's container stays the first.

    Raises
    ------
    TypeError: the patch has one kind of thing where the base has another, an entry of a list
        has no name, or a directive is unknown.
    """
    directive = _directive(patch)
    if directive == "delete":
        return {}
    # What the patch has too is copied where both are merged, not at each level above that again.
    result = {
        key: value if key in patch else _copy(value)
        for key, value in ({} if directive == "replace" else base).items()
    }
    for key, value in patch.items():
        if key == _DIRECTIVE:
            continue
        if key.startswith("$"):
            raise TypeError(f"the directive {key!r} is not supported")
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(key, result.get(key), value)
    return result


def _merged(key: str, old: Any, new: Any) -> Any:
    if isinstance(new, Mapping):
        return merge(_of_kind(key, old, {}), new)
    if isinstance(new, list | tuple):
        there = _of_kind(key, old, [])
        if key in _KEYS:
            return _by_key(there, new, _KEYS[key])
        if key in _UNIONS:
            return [_copy(item) for item in there + [item for item in new if item not in there]]
        return [_copy(item) for item in new]
    if isinstance(old, dict | list):
        _of_kind(key, new, type(old)())
    return new


def _of_kind(key: str, value: Any, empty: Any) -> Any:
    """The value, or an empty one where there is none."""
    if value is None:
        return empty
    if not isinstance(value, type(empty)):
        kind = "an object" if isinstance(empty, dict) else "a list"
        raise TypeError(f"{key!r} is {kind} on one side, and not on the other")
    return value


def _by_key(base: list[Any], patch: list[Any] | tuple[Any, ...], key: str) -> list[Any]:
    told: dict[str, list[Mapping[str, Any]]] = {"merge": [], "replace": [], "delete": []}
    for item in patch:
        if not isinstance(item, Mapping):
            raise TypeError(f"each entry is an object with {key!r}")
        directive = _directive(item)
        if key not in item and directive != "replace":
            raise TypeError(f"each entry needs {key!r}")
        told[directive].append(item)
    gone = [item[key] for item in told["delete"]]
    result = [] if told["replace"] else [old for old in base if old.get(key) not in gone]
    fresh: set[int] = set()  # places of what is a copy already
    for item in told["merge"]:
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if at is None:
            at = len(result)
            result.append(merge({}, item))
        else:
            result[at] = merge(result[at], item)
        fresh.add(at)
    return [each if at in fresh else _copy(each) for at, each in enumerate(result)]


def _directive(patch: Mapping[str, Any]) -> str:
    directive = patch.get(_DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise TypeError(f"there is no directive {directive!r}")
    return str(directive)


def _copy(value: Any) -> Any:
    """A copy of plain data, without the keys that are None."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value
