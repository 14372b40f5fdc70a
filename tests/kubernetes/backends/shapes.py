"""Objects of clusters as other projects' schedulers and drivers write them, for pure tests.

Each file in ``shapes/`` says in ``source`` which project and version defines what is in it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from jupyter_gpu_share.engines.kubernetes.backends import Facts

GIB, MIB = 2**30, 2**20
_FOLDER = Path(__file__).with_name("shapes")


class Shapes:
    """The shapes of one backend; each is given out as a copy."""

    def __init__(self, name: str) -> None:
        self._all: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
        assert self._all["source"]

    def __getattr__(self, name: str) -> Any:
        return copy.deepcopy(self._all[name])


def facts(*nodes: Any, **fields: Any) -> Facts:
    """What is known of a cluster with these nodes, all else being readable."""
    return Facts(nodes=nodes, **fields)


def renamed(pod: dict[str, Any], name: str, **notes: str) -> dict[str, Any]:
    """The pod under another name, with other annotations besides."""
    meta = {**pod["metadata"], "name": name, "uid": name}
    meta["annotations"] = {**meta.get("annotations", {}), **notes}
    return {**pod, "metadata": meta}
