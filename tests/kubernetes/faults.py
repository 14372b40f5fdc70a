"""What faults can touch: a server's view of the cluster through a proxy, and what must be so after.

Each round of a fault is written down; ``make faults`` makes the table of docs/faults.md from that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notebooks import LONG, Notebook
from rounds import ROUNDS, SEED
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.backends._quantity import parse_quantity

__all__ = [
    "RESTING",
    "ROUNDS",
    "SEED",
    "START",
    "STYLES",
    "TURNS",
    "Log",
    "World",
    "account",
    "kill_agent",
    "processes",
    "through",
]

#: Of faults that meet both styles of holding a share, by turns.
TURNS = range(max(2, ROUNDS))
STYLES = ("pod", "lease")
#: Seconds within which a start is hit; one takes about 0.7 s, and what comes later meets a kernel
#: that runs.
START = 1.0
#: File that gets a line of JSON for every round.
LOG = os.environ.get("JUPYTER_GPU_SHARE_FAULT_LOG", "")
GIB = 2**30
GPU_BYTES = 80 * GIB
#: Bytes that a kernel's own claim holds in style lease, also while its share is away.
RESTING = 2**20


@dataclass
class Log:
    """What a round has shown."""

    fault: str
    turn: int
    style: str = "pod"
    #: Seconds from the beginning of the start to the fault.
    instant: float | None = None
    #: What the user was told; empty where nothing ended.
    told: str = ""
    #: What happens, where nobody is told.
    silent: str = "nothing: the kernels go on"
    #: Seconds from the end of the kernels to an empty namespace.
    empty_after: float | None = None

    def write(self) -> None:
        """Add it to the file, where one is asked for."""
        if LOG:
            with Path(LOG).open("a") as file:
                file.write(json.dumps(vars(self)) + "\n")


@dataclass
class World:
    """What a fault can touch."""

    cluster: Any
    namespace: str
    config: Config
    proxy: Any
    account: str
    rng: random.Random = field(default_factory=random.Random)
    notebooks: list[Notebook] = field(default_factory=list)

    def round(self, fault: str, turn: int, style: str = "pod") -> Log:
        """Begin a round: its instants follow from the fault's name and its number."""
        self.rng.seed(f"{SEED}-{fault}-{turn}")
        self.config.KubernetesEngine.style = style
        return Log(fault, turn, style)

    def make(self, size: str = "1/4", **settings: Any) -> Notebook:
        """A notebook, not started."""
        for name, value in settings.items():
            setattr(self.config.KubernetesEngine, name, value)
        self.notebooks.append(Notebook(self.config, size))
        return self.notebooks[-1]

    def objects(self, what: str) -> list[dict[str, Any]]:
        """What there is in the namespace."""
        group = "apis/resource.k8s.io/v1" if what == "resourceclaims" else "api/v1"
        path = f"/{group}/namespaces/{self.namespace}/{what}"
        items: list[dict[str, Any]] = self.cluster.api.get(path)["items"]
        return items

    def kernel_pods(self) -> list[dict[str, Any]]:
        """The pods that kernels run in, without those of leases."""
        part = "gpu-share.jupyter.org/part"
        return [p for p in self.objects("pods") if p["metadata"]["labels"].get(part) == "kernel"]

    async def pod(self) -> dict[str, Any]:
        """The only pod of a kernel, once it runs."""

        def running() -> dict[str, Any] | None:
            pods = [p for p in self.kernel_pods() if p["status"].get("podIP")]
            return pods[0] if pods else None

        found: dict[str, Any] = await eventually(running, "the pod runs", LONG)
        return found

    async def nothing_left(self, log: Log | None = None) -> None:
        """Wait until all that kernels need is gone."""
        begun = time.monotonic()
        for what in ("pods", "secrets", "resourceclaims"):
            await eventually(lambda what=what: not self.objects(what), f"no {what} left", LONG)
        if log is not None:
            log.empty_after = round(time.monotonic() - begun, 2)
            log.write()

    def never_too_much(self) -> None:
        """No share is counted twice, and none is more than its GPU has."""
        held: dict[str, int] = {}
        kernels: list[str] = []
        living = {
            pod["metadata"]["uid"]
            for pod in self.objects("pods")
            if not pod["metadata"].get("deletionTimestamp")
        }
        for claim, result in self.granted():
            bytes_ = parse_quantity(result["consumedCapacity"]["memory"])
            held[result["device"]] = held.get(result["device"], 0) + bytes_
            (owner,) = claim["metadata"]["ownerReferences"]
            if owner["uid"] in living and bytes_ > RESTING:
                notes = claim["metadata"]["annotations"]
                kernels.append(notes["gpu-share.jupyter.org/kernel-id"])
        assert all(amount <= GPU_BYTES for amount in held.values()), held
        assert len(kernels) == len(set(kernels)), "a kernel holds two shares"

    def granted(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each claim of the whole cluster with what it was given of a device."""
        claims = self.cluster.api.get("/apis/resource.k8s.io/v1/resourceclaims")["items"]
        for claim in claims:
            allocation = claim.get("status", {}).get("allocation", {})
            for result in allocation.get("devices", {}).get("results", []):
                if not result.get("adminAccess"):
                    yield claim, result

    async def instant(self, log: Log, longest: float) -> None:
        """Let a random part of so many seconds go by."""
        log.instant = round(self.rng.uniform(0, longest), 3)
        await asyncio.sleep(log.instant)

    async def close(self) -> None:
        """End what a test that failed has left."""
        for one in self.notebooks:
            await one.close()


def account(cluster: Any, namespace: str) -> Path:
    """A ServiceAccount with the rights of a Jupyter server; its kubeconfig."""
    everything = {
        "apiGroups": ["", "resource.k8s.io", "coordination.k8s.io"],
        "resources": ["pods", "secrets", "configmaps", "resourceclaims", "leases", "events"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    }
    reading = {
        "apiGroups": ["", "resource.k8s.io"],
        "resources": ["nodes", "resourceslices", "deviceclasses", "resourceclaims", "pods"],
        "verbs": ["get", "list", "watch"],
    }
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    where = f"{rbac}/namespaces/{namespace}"
    subject = [{"kind": "ServiceAccount", "name": "alice", "namespace": namespace}]
    cluster.service_account_token(namespace, "alice")
    for path, kind, rules, name in (
        (where, "Role", [everything], "alice"),
        (rbac, "ClusterRole", [reading], f"read-{namespace}"),
    ):
        cluster.api.create(f"{path}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        body = {"metadata": {"name": name}, "roleRef": ref, "subjects": subject}
        cluster.api.create(f"{path}/{kind.lower()}bindings", body)
    found: Path = cluster.service_account_kubeconfig(namespace, "alice")
    return found


def through(proxy: Any, kubeconfig: Path, folder: Path) -> Path:
    """The kubeconfig with the proxy's address."""
    text = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{proxy.port}", kubeconfig.read_text())
    path = folder / "proxied.kubeconfig"
    path.write_text(text)
    return path


def processes(pod: dict[str, Any], mark: str) -> list[int]:
    """Processes of a pod whose command line has ``mark``, the oldest first."""
    uid = pod["metadata"]["uid"]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            if uid in (entry / "cgroup").read_text() and mark in command:
                found.append((_number_inside(entry), int(entry.name)))
        except OSError:
            continue
    return [pid for _, pid in sorted(found)]


def _number_inside(process: Path) -> int:
    """As its container knows it: the machine's numbers begin anew every now and then."""
    status = (process / "status").read_text().splitlines()
    (numbers,) = (line for line in status if line.startswith("NSpid:"))
    return int(numbers.split()[-1])


async def kill_agent(world: World, one: Notebook) -> None:
    """The first process of the pod is killed from outside."""
    pod = await world.pod()
    pids = await eventually(
        lambda: processes(pod, "gpu_share_kernel.agent"), "the agent runs", LONG
    )
    os.kill(pids[0], signal.SIGKILL)
