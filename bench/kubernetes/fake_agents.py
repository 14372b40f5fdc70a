"""Fake agents, in one process: they answer for pods that KWOK plays, in which nothing runs.

``python -m bench.kubernetes.fake_agents OPTIONS`` serves until its input ends. To the server a pod
with such an agent is one whose kernel runs. Each listens at its pod's own address, which this
machine takes for its own meanwhile, with the pod's own keys.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Mapping
from typing import Any

import zmq
import zmq.asyncio

from jupyter_gpu_share.engines.kubernetes._names import selector
from jupyter_gpu_share.engines.kubernetes.api import PODS, SECRETS, Change, KubeApi, Watch

_A_PID = 7


async def serve(options: Mapping[str, str]) -> None:
    """Answer for every kernel's pod from when it has an address.

    Options are ``kubeconfig`` and ``namespace``.
    """
    api, space = KubeApi(options["kubeconfig"]), options["namespace"]
    context = zmq.asyncio.Context()
    agents: dict[str, asyncio.Task[None]] = {}

    def changed(change: Change) -> None:
        address = ((change.new or {}).get("status") or {}).get("podIP")
        if address and change.name not in agents:
            work = _serve_one(api, space, context, change.name, address)
            agents[change.name] = asyncio.create_task(work)

    watch = Watch(api, PODS, space, changed, selector=selector(part="kernel"))
    await watch.synced()
    await asyncio.to_thread(sys.stdin.read)
    await watch.close()
    for task in agents.values():
        task.cancel()
    await asyncio.gather(*agents.values(), return_exceptions=True)
    await api.close()
    context.destroy(linger=0)


async def _serve_one(
    api: KubeApi, namespace: str, context: zmq.asyncio.Context, name: str, address: str
) -> None:
    secret = await api.get(SECRETS, name, namespace)
    settings = json.loads(base64.b64decode(secret["data"]["agent.json"]))
    key = settings["key"].encode()
    socket = context.socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_publickey = settings["curve_publickey"].encode()
    socket.curve_secretkey = settings["curve_secretkey"].encode()
    socket.bind(f"tcp://{address}:{settings['port']}")
    state: dict[str, Any] = {"op": "state", "run": None, "pid": None, "exit": None, "reading": None}
    while True:
        peer, _, payload = await socket.recv_multipart()
        order = json.loads(payload)
        if order["op"] == "start":
            state |= {"run": order["run"], "pid": _A_PID}
        told = json.dumps(state).encode()
        signature = hmac.new(key, told, hashlib.sha256).hexdigest().encode()
        await socket.send_multipart([peer, signature, told])


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
