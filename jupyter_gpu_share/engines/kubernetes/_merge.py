"""Strategic merge of additions into a pod, as Kubernetes merges patches. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["merge"]

#: Lists of objects that are merged by a key of theirs; all other lists are replaced.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "resourceClaims": "name",
    "claims": "name",
    "topologySpreadConstraints": "topologyKey",
}
#: Lists of which each entry is a whole: what is new is added.
_UNIONS = {"tolerations", "envFrom", "schedulingGates", "supplementalGroups"}


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``patch`` laid over it; neither is changed.

    A value of None removes the key. Lists of named things (containers, volumes, environment) are
    merged by name, and ``{"$patch": "delete", "name": …}`` removes one of them.

    Raises
    ------
    TypeError: the patch has an object or a list where the base has something else.
    """
    result = copy.deepcopy(dict(base))
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merge(_of_kind(result.get(key, {}), dict, key), value)
        elif isinstance(value, list) and key in _KEYS:
            result[key] = _by_key(_of_kind(result.get(key, []), list, key), value, _KEYS[key])
        elif isinstance(value, list) and key in _UNIONS:
            there = _of_kind(result.get(key, []), list, key)
            result[key] = there + [copy.deepcopy(item) for item in value if item not in there]
        else:
            result[key] = copy.deepcopy(value)
    return result


def _of_kind(value: Any, kind: type, key: str) -> Any:
    if not isinstance(value, kind):
        what = "an object" if kind is dict else "a list"
        raise TypeError(f"{key!r} is {what} there, and none here")
    return value


def _by_key(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    result = list(base)
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise TypeError(f"each entry needs {key!r}")
        at = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [old for old in result if old.get(key) != item[key]]
        elif at is None:
            result.append(copy.deepcopy(dict(item)))
        else:
            result[at] = merge(result[at], item)
    return result
