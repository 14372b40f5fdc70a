"""Pods and what belongs to them, as dicts from typed, checked values. Pure: no template, no I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ...errors import EngineError
from ...kernel_side import DELIVERED, cloudpickle
from ...kernel_side import PATH as KERNEL_SIDE
from ...size import Size
from .._hash_seed import HASH_SEED
from ..base import Connection
from ._check import ROOT, PodRefused, check_pod
from ._merge import merge
from ._names import (
    ATTEMPT,
    KERNEL,
    MANAGED,
    PART,
    PREFIX,
    SERVER,
    UNDISTURBED,
    annotation,
    label_value,
    note,
    shown,
)
from .backends import CONTAINER, GPU_TOLERATION, Rendered, dig

__all__ = [
    "AGENT_PORT",
    "PORTS",
    "Labels",
    "PodPlan",
    "address_of",
    "claim_body",
    "connection_of",
    "files_body",
    "owner",
    "pod_body",
    "secret_body",
    "size_of",
]

Object = dict[str, Any]

#: Where the kernel of every pod listens; pods have addresses of their own.
PORTS = {"shell": 52001, "iopub": 52002, "stdin": 52003, "control": 52004, "hb": 52005}
AGENT_PORT = 52006

_FILES = f"{ROOT}/files"
_CONNECTION = f"{ROOT}/connection"
_IMAGE = re.compile(
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_PYTHON = re.compile(r"[\w./][\w./-]*", re.ASCII)
#: Those that take no word of their own after them, and leave the agent what it needs.
_FLAG = re.compile(r"-(B|OO?|P|R|b{1,2}|d|q|s|u|v{1,3}|W[\w.:]+|X[\w=.-]+)", re.ASCII)


@dataclass(frozen=True)
class Labels:
    """Whose an object is.

    Attributes
    ----------
    notes: annotations that all objects of the kernel carry, with their whole names. They are
        never cut: what is read from them decides.

    Raises
    ------
    EngineError: that is no id of a kernel; only what can be read back from an object is one.
    """

    server: str
    kernel_id: str
    attempt: str
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kernel_id or note(self.kernel_id) != self.kernel_id:
            raise EngineError(
                f"{self.kernel_id[:40]!r} is not the id of a kernel; start a new one."
            )

    def metadata(self, name: str, part: str, **notes: str) -> Object:
        """``metadata`` of an object, with our annotations."""
        return {
            "name": name,
            "labels": {
                MANAGED[0]: MANAGED[1],
                SERVER: self.server,
                KERNEL: label_value(self.kernel_id),
                PART: part,
            },
            "annotations": {
                ATTEMPT: self.attempt,
                PREFIX + "kernel-id": note(self.kernel_id),
                **{PREFIX + key.replace("_", "-"): note(text) for key, text in notes.items()},
                **{key: shown(text) for key, text in self.notes.items()},
            },
        }


@dataclass(frozen=True)
class PodPlan:
    """All that goes into a kernel's pod.

    Attributes
    ----------
    name: of the pod, and of its Secret.
    image: reference of the image.
    files: name of the ConfigMap with the kernel-side files.
    python: the interpreter in the image that runs the agent, and ipykernel.
    flags: of the interpreter, such as ``-Xfrozen_modules=off``.
    hash_seed: of the kernel's Python. The agent has it too: only then can it become the kernel.
    tolerations: taints of nodes that the pod tolerates, besides that of GPUs where it has one.
    deadline: seconds after which the pod ends whatever happens; 0 for never.
    grace: seconds that the pod has to end, where somebody else ends it.
    notes: for the annotations: ``size``, ``path``, ``user``, ``kernel_name`` and the like.
    patches: the administrator's additions, strategic merge patches in the order to lay them on.
    claims: names of the ResourceClaims by their name within the pod.
    owner: an owner reference, or None.

    Raises
    ------
    PodRefused: a name of an image or interpreter, or a flag, that is none.
    """

    name: str
    labels: Labels
    image: str
    files: str
    size: Size
    rendered: Rendered
    python: str = "python3"
    flags: tuple[str, ...] = ()
    hash_seed: str = ""
    pull_policy: str = "IfNotPresent"
    service_account: str = ""
    cpu: str = "100m"
    memory: str = ""
    memory_limit: str = ""
    deadline: int = 0
    grace: int = 120
    working_dir: str = ""
    tolerations: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    patches: Sequence[Mapping[str, Any]] = ()
    owner: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            raise PodRefused(
                f"c.KubernetesEngine.image: {self.image!r} is not the name of an image."
            )
        if not _PYTHON.fullmatch(self.python):
            raise PodRefused(f"c.KubernetesEngine.python: {self.python!r} is not an interpreter.")
        for flag in self.flags:
            if not _FLAG.fullmatch(flag):
                raise PodRefused(
                    f"The kernelspec's flag {flag!r} of the interpreter cannot be used in "
                    "a pod; take it out of the kernelspec."
                )


def pod_body(plan: PodPlan) -> Object:
    """The pod. It fits the restricted Pod Security Standard unless the additions break that.

    Raises
    ------
    PodRefused: what the additions make of it is not allowed, or they cannot be merged.
    """
    rendered = plan.rendered
    resources: Object = {"requests": {"cpu": plan.cpu}, "limits": dict(rendered.limits)}
    if plan.memory:
        resources["requests"]["memory"] = plan.memory
    if plan.memory_limit:
        resources["limits"]["memory"] = plan.memory_limit
    if plan.claims:
        resources["claims"] = [{"name": name} for name in plan.claims]
    container: Object = {
        "name": CONTAINER,
        "image": plan.image,
        "imagePullPolicy": plan.pull_policy,
        "command": [plan.python, *plan.flags, "-m", "gpu_share_kernel.agent"],
        "args": [_CONNECTION],
        "env": [
            {"name": "PYTHONPATH", "value": _FILES},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            *([{"name": HASH_SEED, "value": plan.hash_seed}] if plan.hash_seed else []),
            *({"name": name, "value": value} for name, value in rendered.env.items()),
        ],
        "ports": [
            *({"name": name, "containerPort": port} for name, port in PORTS.items()),
            {"name": "agent", "containerPort": AGENT_PORT},
        ],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "gpu-share-files", "mountPath": _FILES, "readOnly": True},
            {"name": "gpu-share-connection", "mountPath": _CONNECTION, "readOnly": True},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if plan.working_dir:
        container["workingDir"] = plan.working_dir
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Whoever deletes pods here says a shorter one: this is for all others.
        "terminationGracePeriodSeconds": plan.grace,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {
                "name": "gpu-share-files",
                "configMap": {"name": plan.files, "items": _items(), "defaultMode": 0o444},
            },
            {
                "name": "gpu-share-connection",
                "secret": {"secretName": plan.name, "defaultMode": 0o444},
            },
        ],
    }
    for key, value in (
        ("serviceAccountName", plan.service_account),
        ("activeDeadlineSeconds", plan.deadline),
        ("schedulerName", rendered.scheduler),
        ("priorityClassName", rendered.priority_class),
        ("runtimeClassName", rendered.runtime_class),
        ("nodeSelector", dict(rendered.node_selector)),
        ("tolerations", _tolerations(plan)),
    ):
        if value:
            spec[key] = value
    if plan.claims:
        spec["resourceClaims"] = [
            {"name": name, "resourceClaimName": claim} for name, claim in plan.claims.items()
        ]
    metadata = plan.labels.metadata(plan.name, "kernel", size=str(plan.size), **plan.notes)
    metadata["labels"] |= rendered.labels
    metadata["annotations"] |= UNDISTURBED
    metadata["annotations"] |= rendered.annotations
    metadata["annotations"] |= {key: plan.name + end for key, end in rendered.own_names.items()}
    if plan.owner:
        metadata["ownerReferences"] = [dict(plan.owner)]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    try:
        merged = merge(pod, {})
        for patch in plan.patches:
            merged = merge(merged, patch)
    except TypeError as error:
        raise PodRefused(
            f"The additions of c.KubernetesEngine cannot be merged into a pod: {error}."
        ) from error
    check_pod(merged, pod)
    return merged


def _tolerations(plan: PodPlan) -> list[Object]:
    """The administrator's; of a pod with a GPU, also of the taint that nodes with GPUs have."""
    own = [dict(one) for one in (*plan.tolerations, *plan.rendered.tolerations)]
    return own if plan.size.is_none else [*own, dict(GPU_TOLERATION)]


def address_of(pod: Mapping[str, Any]) -> str:
    """Where a pod is reached: over IPv4, on which kernels listen, if it has that; empty before."""
    first: str = dig(pod, "status", "podIP", default="")
    known = [dig(each, "ip", default="") for each in dig(pod, "status", "podIPs", default=[])]
    return next((ip for ip in known if ip and ":" not in ip), first)


def size_of(pod: Mapping[str, Any]) -> Size:
    """The size that a pod was made for.

    Raises
    ------
    SizeError: it says something that is none.
    """
    return Size.parse(annotation(pod, "size") or "0")


def owner(obj: Mapping[str, Any]) -> Object:
    """A reference to the object that others belong to: they go when it goes."""
    return {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
        "uid": obj["metadata"]["uid"],
    }


def secret_body(
    name: str,
    labels: Labels,
    connection: Connection,
    *,
    watchdog: float,
    grace: float,
    owned_by: Mapping[str, Any] | None,
) -> Object:
    """The Secret with the keys of a kernel. They are nowhere else.

    Parameters
    ----------
    watchdog: seconds without a server after which the pod ends.
    grace: seconds that the pod has to end; the agent lets a server use them.
    """
    keys = {"key": connection.key.decode(), "signature_scheme": connection.signature_scheme}
    curve = {}
    if connection.curve_publickey and connection.curve_secretkey:
        curve = {
            "curve_publickey": connection.curve_publickey,
            "curve_secretkey": connection.curve_secretkey,
        }
    wire = {
        "transport": "tcp",
        "ip": "0.0.0.0",  # noqa: S104 - within the pod's own network namespace
        **{f"{channel}_port": port for channel, port in PORTS.items()},
        **keys,
        **curve,
    }
    own = {"ip": wire["ip"], "port": AGENT_PORT, "watchdog": watchdog, "grace": grace}
    agent = {**own, **keys, **curve}
    metadata = labels.metadata(name, "connection")
    if owned_by:
        metadata["ownerReferences"] = [dict(owned_by)]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "immutable": True,
        "stringData": {"connection.json": json.dumps(wire), "agent.json": json.dumps(agent)},
    }


def connection_of(secret: Mapping[str, Any], ip: str) -> Connection:
    """The connection that a Secret holds, to a pod's address.

    Raises
    ------
    ValueError: it is none of ours.
    """
    try:
        wire = json.loads(base64.b64decode(secret["data"]["connection.json"]))
        texts = {name: wire[name] for name in ("key", "signature_scheme")}
        texts |= {
            name: wire[name] for name in ("curve_publickey", "curve_secretkey") if name in wire
        }
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("not text")
        return Connection(
            transport="tcp",
            ip=ip,
            ports={channel: int(wire[f"{channel}_port"]) for channel in PORTS},
            key=texts.pop("key").encode(),
            **texts,
        )
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError("the Secret holds no connection of a kernel") from error


def claim_body(
    name: str,
    labels: Labels,
    spec: Mapping[str, Any],
    *,
    owned_by: Mapping[str, Any] | None,
    part: str = "claim",
) -> Object:
    """A ResourceClaim."""
    metadata = labels.metadata(name, part)
    if owned_by:
        metadata["ownerReferences"] = [dict(owned_by)]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": dict(spec),
    }


def files_body() -> Object:
    """The ConfigMap with the kernel-side files; its name follows from their content."""
    data = _files()
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"gpu-share-files-{digest}",
            "labels": {MANAGED[0]: MANAGED[1], PART: "files"},
        },
        "immutable": True,
        "data": dict(data),
    }


@cache
def _files() -> dict[str, str]:
    """The files by key; a key of a ConfigMap cannot hold a slash."""
    ours = {
        path.relative_to(KERNEL_SIDE).as_posix(): path.read_text("utf-8")
        for path in sorted(KERNEL_SIDE.rglob("*.py"))
        if path.name != "__init__.py" or path.parent != KERNEL_SIDE
    }
    # For images that have none: what snapshots of variables are made with.
    folder = cloudpickle()
    theirs = {
        f"{DELIVERED}/{path.relative_to(folder).as_posix()}": path.read_text("utf-8")
        for path in sorted((folder / "cloudpickle").rglob("*.py"))
    }
    return {path.replace("/", ".."): text for path, text in (ours | theirs).items()}


def _items() -> list[Object]:
    return [{"key": key, "path": key.replace("..", "/")} for key in _files()]
