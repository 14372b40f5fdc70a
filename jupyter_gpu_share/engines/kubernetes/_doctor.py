"""What ``doctor`` says about a cluster: what it can do, what is missing, the command to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ...errors import GpuShareError
from ..base import Finding
from ._cluster import Cluster
from .api import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NAMESPACES,
    PODS,
    SECRETS,
    Forbidden,
    KubernetesError,
    NotFound,
    Resource,
    Unauthorized,
)
from .backends import DraBackend, nodes_apart

__all__ = ["ADMIN_ACCESS", "about_leases", "examine", "how_to_reach"]

#: What the smallest Role of etc/kubernetes grants, that of overlays/shared.
_NEEDED: tuple[tuple[Resource, tuple[str, ...]], ...] = (
    (PODS, ("get", "list", "watch", "create", "patch", "delete")),
    (SECRETS, ("create",)),
    (CONFIG_MAPS, ("get", "create")),
    (LEASES, ("get", "list", "create", "patch", "delete")),
)
_NEEDED_BY_DRA = (CLAIMS, ("get", "list", "watch", "create", "delete"))
_APPLY = "kubectl apply -k etc/kubernetes/base"
#: Label of a namespace whose claims may have administrator access.
ADMIN_ACCESS = "resource.kubernetes.io/admin-access"


def how_to_reach(error: GpuShareError) -> str:
    """A command for an error that kept the cluster from being reached."""
    if isinstance(error, Unauthorized):
        return "kubectl auth whoami"
    if isinstance(error, Forbidden):
        return _APPLY
    return "kubectl cluster-info"


async def examine(cluster: Cluster) -> list[Finding]:
    """Look at everything that kernels need."""
    findings = [*await _about_cluster(cluster), *await _about_rights(cluster)]
    with suppress(KubernetesError):  # told above
        await cluster.refresh()
    findings += cluster.backend.examine(cluster.facts)
    findings += nodes_apart(cluster.facts)
    findings += await _about_style(cluster)
    findings += _about_pods(cluster)
    return findings


async def _about_cluster(cluster: Cluster) -> list[Finding]:
    try:
        version = await cluster.api.version()
    except KubernetesError as error:
        return [Finding("error", str(error), how_to_reach(error))]
    who = "" if cluster.everybody else f", this server is {cluster.server!r} there"
    found = [
        Finding(
            "ok",
            f"Kubernetes {version.get('gitVersion', '?')}, {cluster.api.access}; kernels run in "
            f"the namespace {cluster.namespace!r}{who}.",
        ),
        Finding("ok", f"Shares come from the backend {cluster.backend.name}."),
    ]
    watches = [("pods", cluster.pods)]
    if cluster.claims is not None:
        watches.append(("claims", cluster.claims))
    for name, watch in watches:
        health = watch.health
        if health.error:
            found.append(
                Finding(
                    "warning",
                    f"The watch of {name} is behind: {health.error}",
                    "kubectl cluster-info  # it goes on by itself when the API server answers",
                )
            )
        else:
            age = f"{health.age:.0f} s ago" if health.age is not None else "not yet"
            found.append(Finding("ok", f"The watch of {name} is up to date (heard {age})."))
    return found


async def _about_rights(cluster: Cluster) -> list[Finding]:
    needed = list(_NEEDED)
    if cluster.backend.name == "dra":
        needed.append(_NEEDED_BY_DRA)
    found = []
    for resource, verbs in needed:
        missing = [
            verb
            for verb in verbs
            if not await cluster.api.allowed(verb, resource, cluster.namespace)
        ]
        if missing:
            found.append(
                Finding(
                    "error",
                    f"This server may not {', '.join(missing)} {resource.plural} in "
                    f"{cluster.namespace!r}.",
                    _APPLY,
                )
            )
    if not found:
        found.append(Finding("ok", "The rights in the namespace suffice."))
    if await cluster.api.allowed("create", PODS, cluster.namespace, "exec"):
        found.append(
            Finding(
                "note",
                "This server may open shells in pods, which it never needs.",
                "Use the Role of etc/kubernetes/base.",
            )
        )
    if cluster.settings.adopt and not await cluster.api.allowed("get", SECRETS, cluster.namespace):
        found.append(
            Finding(
                "note",
                "This server may not read Secrets: when it is started again, it cannot take over "
                "kernels that run. Where several servers share a namespace it has to be so.",
                "c.KubernetesEngine.adopt = False  # they are ended at once",
            )
        )
    told = cluster.settings.kinds or cluster.settings.queues
    if told and not await cluster.api.allowed("list", EVENTS, cluster.namespace):
        found.append(
            Finding(
                "note",
                "This server may not read Events: what an autoscaler or Kueue says of kernels that "
                "wait is not shown.",
                _APPLY,
            )
        )
    found += await _about_looks(cluster)
    if not await cluster.api.allowed("get", PODS, cluster.namespace, "log"):
        found.append(
            Finding(
                "note",
                "What kernels print before they fail to start cannot be read.",
                _APPLY,
            )
        )
    return found


async def _about_looks(cluster: Cluster) -> list[Finding]:
    """What of the whole cluster may be listed, but not watched: roles were so before."""
    api = cluster.api
    unwatched = [
        resource.plural
        for resource in cluster.looked_at
        if await api.allowed("list", resource, None)
        and not await api.allowed("watch", resource, None)
    ]
    if not unwatched:
        return []
    overlay = "cluster-read-pods" if PODS.plural in unwatched else "cluster-read"
    return [
        Finding(
            "note",
            f"This server may list {', '.join(unwatched)} of the cluster, and not watch them: for "
            "pages that show what is free it lists them again and again.",
            f"kubectl apply -k etc/kubernetes/overlays/{overlay}",
        )
    ]


async def _about_style(cluster: Cluster) -> list[Finding]:
    if cluster.settings.style != "lease" or not isinstance(cluster.backend, DraBackend):
        return []
    allowed: bool | None
    try:
        namespace = await cluster.api.get(NAMESPACES, cluster.namespace)
        allowed = (namespace["metadata"].get("labels") or {}).get(ADMIN_ACCESS) == "true"
    except (Forbidden, NotFound):
        allowed = None
    return about_leases(cluster.backend.privileged(cluster.facts), allowed, cluster.namespace)


def about_leases(privileged: Sequence[str], allowed: bool | None, namespace: str) -> list[Finding]:
    """What style ``lease`` needs, and whether it has it.

    Parameters
    ----------
    privileged: models of GPUs on which kernels can rest by administrator access alone.
    allowed: whether the namespace allows that; None: this cannot be read.
    """
    label = f"kubectl label namespace {namespace} {ADMIN_ACCESS}"
    if not privileged:
        found = [
            Finding(
                "ok",
                "Style 'lease' needs no administrator access: a kernel whose share is away rests "
                "on the smallest amount of its GPU.",
            )
        ]
        if allowed:
            found.append(
                Finding(
                    "note",
                    "The namespace allows administrator access, which style 'lease' does not need "
                    "with this DRA driver.",
                    f"{label}-",
                )
            )
        return found
    which = ", ".join(privileged)
    if allowed is None:
        return [
            Finding(
                "note",
                f"Whether the namespace allows administrator access, which style 'lease' needs on "
                f"{which}, cannot be read.",
                f"kubectl get namespace {namespace} --show-labels",
            )
        ]
    if allowed:
        words = f"The namespace allows administrator access, which style 'lease' needs on {which}."
        return [Finding("ok", words)]
    return [
        Finding(
            "error",
            f"Style 'lease' needs a namespace with administrator access on {which}: the smallest "
            "amount that the DRA driver gives out of it is too much to rest on.",
            f"{label}=true",
        )
    ]


def _about_pods(cluster: Cluster) -> list[Finding]:
    settings = cluster.settings
    if not settings.image and not settings.images:
        return [
            Finding(
                "error",
                "No image is set for kernels.",
                'c.KubernetesEngine.image = "…"  # one that has ipykernel 7.3 or later',
            )
        ]
    try:
        settings.additions  # noqa: B018 - to see whether it raises
    except GpuShareError as error:
        return [Finding("error", str(error), "c.KubernetesEngine in jupyter_server_config.py")]
    return [Finding("ok", f"Kernels run in {settings.image or 'the images by kernelspec'}.")]
