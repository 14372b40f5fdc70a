"""What ``doctor`` says in the pod of a cluster's broker: what it needs of Hub and cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from traitlets.config import Config

from ...engines.base import Finding
from ...engines.kubernetes import KubernetesEngine
from ...engines.kubernetes._cluster import Cluster
from ...engines.kubernetes._doctor import ADMIN_ACCESS, how_to_reach
from ...engines.kubernetes._doctor import examine as examine_cluster
from ...errors import GpuShareError
from .callers import Callers, HubApi
from .service import hub_of

__all__ = ["examine"]

_SERVER = re.compile(r"\b(This|The Jupyter) server may")
#: What becomes of a remedy for a server's own rights: the chart has the broker's.
_CHART = {
    "kubectl apply -k etc/kubernetes/base": "helm upgrade  # the chart has the rights",
    "kubectl apply -k etc/kubernetes/overlays/cluster-read": (
        "cluster.readGpus: true  # values of the chart"
    ),
    "kubectl apply -k etc/kubernetes/overlays/cluster-read-pods": (
        "cluster.readPods: true  # values of the chart"
    ),
    "Use the Role of etc/kubernetes/base.": "helm upgrade  # the chart has the rights",
    "c.KubernetesEngine in jupyter_server_config.py": (
        "config.KubernetesEngine  # values of the chart"
    ),
}


async def examine(config: Config, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at what the broker needs. Nothing of kernels is read or changed.

    Parameters
    ----------
    config: the broker's.
    environ: what the Hub tells its services.
    """
    return [await _about_hub(environ), *await _about_cluster(config)]


async def _about_hub(environ: Mapping[str, str]) -> Finding:
    try:
        hub = hub_of(environ)
    except GpuShareError as error:
        return Finding("error", str(error), "hub  # values of the chart")
    api = HubApi(hub.api)
    callers = Callers(api, hub.name)
    try:
        await callers.check_own(hub.token)
        answer = await api.user(hub.token)
    except GpuShareError as error:
        return Finding("error", str(error), "hub.service, hub.existingSecretKey  # of the chart")
    finally:
        await callers.close()
        await api.close()
    if answer.status == 200:
        return Finding(
            "ok", f"The JupyterHub answers at {hub.api}; this is its service {hub.name}."
        )
    if answer.status in (401, 403):
        return Finding(
            "error",
            f"The JupyterHub at {hub.api} does not know the broker's token.",
            f"The Hub's values name the service {hub.name}; then kubectl rollout restart of the "
            "broker's deployment (docs/jupyterhub.md).",
        )
    if answer.status:
        return Finding(
            "error",
            f"What answers at {hub.api} is no JupyterHub that works (status {answer.status}).",
            "hub.apiUrl, hub.baseUrl  # values of the chart",
        )
    return Finding(
        "error",
        f"The JupyterHub does not answer at {hub.api}.",
        "kubectl get pods -l component=hub -A  # it runs? else hub.apiUrl, or its NetworkPolicy",
    )


async def _about_cluster(config: Config) -> list[Finding]:
    try:
        cluster = Cluster(KubernetesEngine(config=config), lambda _: None, everybody=True)
    except GpuShareError as error:
        return [Finding("error", str(error), "config.KubernetesEngine  # values of the chart")]
    try:
        await cluster.open()
        found = await examine_cluster(cluster)
    except GpuShareError as error:
        found = [Finding("error", str(error), how_to_reach(error))]
    finally:
        await cluster.close()
    return [_of_broker(each) for each in found]


def _of_broker(finding: Finding) -> Finding:
    """In the words of who installs the chart."""
    what, fix = _SERVER.sub("The broker may", finding.what), finding.fix or ""
    fix = _CHART.get(fix, fix)
    if fix.startswith("kubectl label namespace") and ADMIN_ACCESS in fix:
        fix = f"adminAccess: {'true' if fix.endswith('=true') else 'false'}  # values of the chart"
    return Finding(finding.level, what, fix or None)
