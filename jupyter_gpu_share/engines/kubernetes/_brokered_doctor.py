"""What ``doctor`` says in a server whose kernels' pods the broker makes: what is missing where.

The words name stanzas of Zero to JupyterHub's values, which is where an administrator mends it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import aiohttp
from packaging.version import InvalidVersion, Version

from ..._threads import within
from ..._version import __version__
from ...broker.client import BrokerAway, BrokerRefused
from ...broker.http_client import HttpBroker
from ...errors import GpuShareError
from ..base import Finding
from ._machine import Machine
from ._pods import AGENT_PORT, PORTS
from ._row import Row

__all__ = ["NOT_REACHED", "NO_SERVER", "about", "examine"]

NO_SERVER = (
    "The token in JUPYTERHUB_API_TOKEN is of no server, and kernels belong to one. Start them from "
    "a server of the Hub, or from a terminal of it."
)
NOT_REACHED = (
    "The kernel's pod runs, and does not answer this server: perhaps the network lets nothing "
    "through to it. `jupyter gpu-share doctor` in a terminal here says more."
)
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
#: Seconds for a connection to a kernel's pod.
_PATIENCE = 3.0
#: Pods that are tried.
_TRIED = 3
_SCOPE = (
    "The administrator grants the scope access:services!service=gpu-share in two stanzas, "
    "hub.loadRoles.user and hub.loadRoles.server (docs/jupyterhub.md); then start this server "
    "again."
)
_BROKER_EGRESS = (
    "The administrator allows it in singleuser.networkPolicy.egress, and looks whether the broker "
    "runs: kubectl get deployment,pods -l app.kubernetes.io/name=jupyter-gpu-share -A"
)
_NO_NAME = (
    "Nobody knows that name: the administrator corrects JUPYTER_GPU_SHARE_BROKER in "
    "singleuser.extraEnv; a broker in another namespace is gpu-share-broker.<namespace>."
)
_NOBODY_LISTENS = (
    "Nothing listens there, or a policy refuses it (singleuser.networkPolicy.egress): the "
    "administrator looks whether the broker is ready: "
    "kubectl get deployment,pods -l app.kubernetes.io/name=jupyter-gpu-share -A"
)
_NO_TLS = (
    "No secure connection can be made: the administrator corrects JUPYTER_GPU_SHARE_BROKER in "
    "singleuser.extraEnv, as the chart's broker is at http://, or the certificate."
)
_NO_ADDRESS = (
    "The administrator corrects JUPYTER_GPU_SHARE_BROKER in singleuser.extraEnv: its path is "
    "hub.baseUrl and services/gpu-share."
)


async def examine(broker: HttpBroker) -> list[Finding]:
    """Look at everything that kernels need.

    Raises
    ------
    GpuShareError: the broker tells nothing; :func:`about` says what to do.
    """
    machine = Machine.read(await broker.ask("GET", "/v1/machine"))
    found = [
        Finding(
            "ok",
            f"The broker of this cluster answers at {broker.url}, version {machine.version}; it "
            f"knows you as {machine.user}{_of_server(machine)}.",
        ),
        *_about_version(machine),
    ]
    if machine.server is None:
        found.append(
            Finding("warning", NO_SERVER, "jupyter gpu-share doctor  # in a server's terminal")
        )
    if machine.paused:
        found.append(
            Finding(
                "warning",
                "An administrator has paused the broker: nobody gets a new share now.",
                "Wait, or ask your administrator.",
            )
        )
    if machine.place:
        found.append(Finding("ok", f"Kernels run in {machine.place}."))
    if machine.backend:
        found.append(
            Finding("ok", f"Shares come from the backend {machine.backend}, style {machine.style}.")
        )
    if not machine.gpus:
        found.append(
            Finding(
                "warning",
                "The broker sees no GPU in the cluster.",
                "The administrator runs: kubectl exec deployment/gpu-share-broker -n <namespace of "
                "the Hub> -- jupyter-gpu-share doctor",
            )
        )
    if not machine.image and not machine.images:
        found.append(
            Finding(
                "error",
                "No image is set for kernels.",
                "The administrator sets c.KubernetesEngine.image in the broker's configuration.",
            )
        )
    if machine.server is not None:
        rows = [Row.read(row) for row in await broker.ask("GET", "/v1/shares")]
        found.append(await _about_pods([row.address for row in rows if row.address]))
    return found


def about(error: GpuShareError) -> Finding:
    """What to do about an error that kept the broker from telling anything."""
    status = error.status if isinstance(error, BrokerRefused) else 0
    if status == _FORBIDDEN:
        return Finding("error", str(error), _SCOPE)
    if status == _UNAUTHORIZED:
        return Finding(
            "error",
            str(error),
            "Stop this server at the Hub and start it again: its token counts no more.",
        )
    if isinstance(error, BrokerAway) and error.__cause__ is None:
        # It answers by itself that something behind it is away.
        return Finding("error", str(error), "Wait, or ask your administrator: it is tried again.")
    if isinstance(error, BrokerAway):
        return Finding("error", str(error), _remedy(error.__cause__))
    if status == _NOT_FOUND:
        return Finding("error", str(error), _NO_ADDRESS)
    return Finding(
        "error", str(error), "Ask your administrator; docs/jupyterhub.md says how it is set up."
    )


def _remedy(cause: BaseException | None) -> str:
    """What to do, by what the network said: a policy that lets nothing through says nothing."""
    if isinstance(cause, aiohttp.ClientSSLError):
        return _NO_TLS
    reason = cause.os_error if isinstance(cause, aiohttp.ClientConnectorError) else cause
    if isinstance(reason, socket.gaierror):
        return _NO_NAME
    return _NOBODY_LISTENS if isinstance(reason, ConnectionRefusedError) else _BROKER_EGRESS


def _of_server(machine: Machine) -> str:
    if machine.server is None:
        return ""
    return f", server {machine.server}" if machine.server else ", your default server"


def _about_version(machine: Machine) -> list[Finding]:
    """Whether the broker and this server are of one version."""
    older = machine.version != __version__
    with suppress(InvalidVersion):
        older = Version(machine.version) < Version(__version__)
        if Version(machine.version) == Version(__version__):
            return []
    what = f"The broker is of version {machine.version}, this server of {__version__}."
    if older:
        return [Finding("warning", what, "The administrator upgrades the broker: helm upgrade")]
    return [Finding("note", what, "Start a server with a newer image when there is one.")]


async def _about_pods(addresses: list[str]) -> Finding:
    """Whether kernels' pods are reached from here: their traffic does not go through the broker."""
    if not addresses:
        return Finding(
            "ok", "No kernel of this server runs; whether pods are reached shows when one does."
        )
    tries = [_reached(address) for address in addresses[:_TRIED]]
    if any(await asyncio.gather(*tries)):
        return Finding("ok", "This server reaches its kernels' pods.")
    first, last = min(PORTS.values()), AGENT_PORT
    return Finding(
        "error",
        f"The broker answers, but this server reaches none of its kernels' pods, on TCP ports "
        f"{first} to {last}.",
        f"The administrator allows TCP {first}-{last} to the kernels' namespace in "
        "singleuser.networkPolicy.egress (docs/jupyterhub.md).",
    )


async def _reached(address: str) -> bool:
    try:
        opening = asyncio.open_connection(address, AGENT_PORT)
        _, writer = await within(_PATIENCE, opening)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
