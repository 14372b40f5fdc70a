"""Kinds of nodes with GPUs that a cluster can have, as the administrator declares them. Pure.

An autoscaler brings nodes when a pod waits for them. What may come, and how its GPUs are split, is
seen on no object of the cluster before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....errors import EngineError, SizeError
from ....size import parse_bytes
from ._labels import Told, profile_in
from ._usable import Placement

__all__ = ["Kind", "kind_of", "placement_among"]

#: Names of the settings of a kind, with the type of each.
_FIELDS: dict[str, type] = {
    "model": str,
    "memory": str,
    "gpus": int,
    "sharing": str,
    "replicas": int,
    "profile": str,
    "node_selector": dict,
    "tolerations": list,
    "most": int,
}
_WORDS = {str: "a text", int: "a whole number", dict: "a dict", list: "a list"}
_SHARED = ("time-slicing", "mps")
_SHARING = ("none", *_SHARED, "mig")


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of nodes.

    Attributes
    ----------
    told: of its GPUs; ``memory`` is that of each MIG instance where they are partitioned.
    placement: labels of such nodes, and the tolerations that their taints need.
    most: number of such nodes at most; None where there is no bound.
    """

    told: Told
    placement: Placement
    most: int | None = None

    @classmethod
    def parse(cls, number: int, entry: Mapping[str, Any]) -> Kind:
        """An entry of ``c.KubernetesEngine.kinds``, ``number`` being its place from 0.

        Raises
        ------
        EngineError: it has another setting, or one without a sensible value.
        """
        if (wrong := _wrong(entry)) is not None:
            raise EngineError(f"c.KubernetesEngine.kinds, entry {number + 1}: {wrong}.")
        profile, replicas = entry.get("profile", ""), entry.get("replicas", 1)
        return cls(
            Told(
                model=entry.get("model", ""),
                profile=profile_in(profile),
                memory=parse_bytes(entry["memory"]),
                count=entry.get("gpus", 1) * (replicas if profile else 1),
                replicas=1 if profile else replicas,
                sharing="none" if profile else entry.get("sharing", ""),
            ),
            Placement(dict(entry.get("node_selector", {})), entry.get("tolerations", [])),
            entry.get("most"),
        )


def _wrong(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry, the end of a sentence; None: nothing."""
    for name, value in entry.items():
        kind = _FIELDS.get(name)
        if kind is None:
            return f"there is no {name}; there is {', '.join(_FIELDS)}"
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{name} is {_WORDS[kind]}, not {value!r}"
        if isinstance(value, int) and value < 1:
            return f"{name} is 1 or more"
    try:
        parse_bytes(entry.get("memory", ""))
    except SizeError as error:
        return f"memory of a GPU, or of a MIG instance, is missing or wrong: {error}"
    sharing, profile = entry.get("sharing", "none"), entry.get("profile", "")
    if sharing not in _SHARING:
        return f"sharing is {', '.join(_SHARING)}, not {sharing!r}"
    if (sharing == "mig") != (profile_in(profile) is not None) or (profile and sharing != "mig"):
        return 'a profile such as 1g.10gb goes with sharing "mig", and only there'
    if sharing != "mig" and (sharing in _SHARED) != (entry.get("replicas", 1) > 1):
        return "replicas from 2 on go with sharing time-slicing and mps, and only there"
    selector = entry.get("node_selector", {})
    if not all(isinstance(text, str) for pair in selector.items() for text in pair):
        return f"node_selector has texts only, not {selector!r}"
    if not all(isinstance(each, Mapping) for each in entry.get("tolerations", [])):
        return "tolerations are dicts, as in the spec of a pod"
    return None


def placement_among(
    kinds: Sequence[Kind], coming: Sequence[Kind], fits: Callable[[Kind], bool], *, there: bool
) -> Placement:
    """Where a pod goes whose scheduler knows by itself which GPUs will do.

    Parameters
    ----------
    kinds, coming: all that are declared, and those of which a node may still come.
    fits: whether GPUs of a kind will do.
    there: whether a GPU that is there will do.
    """
    if not there and (new := next(filter(fits, coming), None)) is not None:
        return new.placement
    found = Placement()
    for kind in filter(fits, kinds):
        found += Placement(tolerations=kind.placement.tolerations)
    return found


def kind_of(labels: Mapping[str, str], kinds: Sequence[Kind]) -> Kind | None:
    """The first kind that a node with these labels is of. One without labels is of no kind."""
    return next(
        (kind for kind in kinds if kind.placement.node_selector and kind.placement.selects(labels)),
        None,
    )
