"""Names, labels and annotations: what ties objects to a kernel and to a server. Pure.

Everything that a server needs to adopt or to sweep an object is on the object itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ATTEMPT",
    "KERNEL",
    "MANAGED",
    "NAMES",
    "PART",
    "PREFIX",
    "SERVER",
    "UNDISTURBED",
    "annotation",
    "hub_server_name",
    "label",
    "label_value",
    "note",
    "object_name",
    "selector",
    "server_name",
    "shown",
]

PREFIX = "gpu-share.jupyter.org/"
#: Label that all objects of this package carry, of whatever server.
MANAGED = ("app.kubernetes.io/managed-by", "jupyter-gpu-share")
SERVER = PREFIX + "server"
KERNEL = PREFIX + "kernel"
#: What an object is: ``kernel``, ``lease``, ``connection``, ``claim``, ``files``, ``server``.
PART = PREFIX + "part"
#: Annotation: unique for each attempt to create the object.
ATTEMPT = PREFIX + "attempt"

#: Annotations of pods with a kernel or its share, for others' controllers: what saves nodes lets
#: them be, as their variables are in memory alone, and what adds a mesh's proxy leaves it out, as
#: their traffic is encrypted already. The administrator may say something else in ``pod_patch``.
UNDISTURBED = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "linkerd.io/inject": "disabled",
    "sidecar.istio.io/inject": "false",
}

#: All objects of kernels are named so; no object of anybody else should be.
NAMES = "gpu-share-"

_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DNS = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?", re.ASCII)
_LONGEST_ANNOTATION = 1024


def object_name(server: str, kernel_id: str, part: str = "", *, generation: str = "") -> str:
    """Name of a pod (or another part) of a kernel: the same at every attempt to create it.

    A hash of the whole, so that no two kernels meet after characters were replaced. As JSON no
    character of the one can pass for the border to the other.

    Parameters
    ----------
    generation: differs from one pod of the kernel to the next, which may have to be made while
        the last one is still on its way out.
    """
    text = json.dumps([server, kernel_id, generation])
    return f"{NAMES}{_hash(text)}" + (f"-{part}" if part else "")


def label_value(text: str) -> str:
    """A text as the value of a label: itself where that is allowed, else a hash of it.

    The hash starts with two characters that cannot begin a text which stays itself.
    """
    if _LABEL.fullmatch(text) and not text.startswith("x-"):
        return text
    return "x-" + _hash(text)


def server_name(text: str) -> str:
    """Identity of a server, good for labels and as part of a name."""
    if _DNS.fullmatch(text) and not text.startswith("x-"):
        return text
    return "x-" + _hash(text)


def hub_server_name(user: str, server: str) -> str:
    """Identity of a server of a JupyterHub's user; ``server`` is empty for the one without a name.

    A hash of the pair, as JSON: ``alice`` with ``lab`` is not ``alice-lab``.
    """
    return "hub-" + _hash(json.dumps([user, server]))


def selector(**labels: str) -> str:
    """Label selector for objects of this package, narrowed by ``server``, ``kernel``, ``part``.

    Raises
    ------
    ValueError: a value that no label has, such as one that would select more.
    """
    for value in labels.values():
        if not _LABEL.fullmatch(value):
            raise ValueError(f"{value!r} is not the value of a label")
    pairs = [MANAGED, *((PREFIX + name, value) for name, value in labels.items())]
    return ",".join(f"{name}={value}" for name, value in pairs)


def label(obj: Mapping[str, Any] | None, name: str) -> str:
    """A label of an object; empty where it has none."""
    value: str = (((obj or {}).get("metadata") or {}).get("labels") or {}).get(name, "")
    return value


def annotation(obj: Mapping[str, Any] | None, name: str) -> str:
    """One of our annotations of an object, without the prefix; empty where it has none."""
    notes = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    value: str = notes.get(PREFIX + name, "")
    return value


def note(text: str) -> str:
    """A text as the value of an annotation: as it is, but not endless."""
    text = shown(text)
    return text if len(text) <= _LONGEST_ANNOTATION else text[: _LONGEST_ANNOTATION - 1] + "…"


def shown(text: str) -> str:
    """A text that Kubernetes takes, whole."""
    return text.encode("utf-8", "replace").decode()


def _hash(text: str) -> str:
    # A client's JSON can hold half of a surrogate pair, which is no UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
