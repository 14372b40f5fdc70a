"""A pod with ipykernel in it, and nothing else, as a contender."""

from __future__ import annotations

import asyncio
import json
from time import perf_counter
from typing import Any
from uuid import uuid4

from jupyter_gpu_share.engines.kubernetes.api import PODS, SECRETS, Change, KubeApi, Watch

from . import child

_PORTS = {"shell": 52001, "iopub": 52002, "stdin": 52003, "control": 52004, "hb": 52005}
_CONNECTION = {
    "transport": "tcp",
    "ip": "0.0.0.0",  # noqa: S104 - within the pod's own network namespace
    "key": "a-key-of-the-benchmarks",
    "signature_scheme": "hmac-sha256",
    **{f"{channel}_port": port for channel, port in _PORTS.items()},
}
_NAME = "bench-bare"


class Contender(child.Contender):
    """Options: ``kubeconfig``, ``namespace``, ``image``; ``proper``, whether the pod is one for a
    restricted namespace, with its keys in a Secret. Otherwise they are on the command line, and
    nothing is asked of the machine but to run it.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._api = KubeApi(options["kubeconfig"])
        self._name = ""

    async def prepare(self) -> None:
        """Make the Secret, which is the same for all pods."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": _NAME},
            "stringData": {"connection.json": json.dumps(_CONNECTION)},
        }
        await self._api.create(SECRETS, secret, self.options["namespace"])

    async def start(self) -> float:
        """Create a pod, and connect as soon as it runs; no claim, no agent."""
        name = self._name = f"{_NAME}-{uuid4().hex[:8]}"
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def changed(change: Change) -> None:
            status = (change.new or {}).get("status") or {}
            running = any("running" in s["state"] for s in status.get("containerStatuses", []))
            if change.name == name and running and not address.done():
                address.set_result(status["podIP"])

        space = self.options["namespace"]
        watch = Watch(self._api, PODS, space, changed, selector=f"app={_NAME}")
        try:
            await watch.synced()
            begun = perf_counter()
            await self._api.create(PODS, self._pod(name), space)
            ip = await asyncio.wait_for(address, child.PATIENCE)
            self.client = child.directly({**_CONNECTION, "ip": ip})
            await child.answered(self.client)
            return perf_counter() - begun
        finally:
            await watch.close()

    async def end(self) -> None:
        """Delete the pod."""
        await super().end()
        await self._api.delete(PODS, self._name, self.options["namespace"], grace=0)

    def _pod(self, name: str) -> dict[str, Any]:
        kernel = "python3 -m ipykernel_launcher"
        container: dict[str, Any] = {
            "name": "kernel",
            "image": self.options["image"],
            "imagePullPolicy": "Never",
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
        }
        if self.options["proper"]:
            spec["securityContext"] = {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            container["securityContext"] = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            # The kernel writes to its connection file.
            copy = "cp /secret/connection.json /tmp/connection.json"
            container["command"] = ["sh", "-c", f"{copy} && exec {kernel} -f /tmp/connection.json"]
            container["volumeMounts"] = [{"name": "connection", "mountPath": "/secret"}]
            spec["volumes"] = [{"name": "connection", "secret": {"secretName": _NAME}}]
        else:
            ports = [f"--{channel}={port}" for channel, port in _PORTS.items()]
            key = f"--Session.key={_CONNECTION['key']}"
            container["command"] = [*kernel.split(), "--ip=0.0.0.0", *ports, key]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": _NAME}},
            "spec": spec,
        }
