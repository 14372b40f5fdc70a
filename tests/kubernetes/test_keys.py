"""A kernel obeys whoever has its keys, and the keys are where nobody else comes.

The attacker runs in a pod beside the kernel's, where nothing but the keys is in the way: the test
cluster has no network plugin that enforces NetworkPolicies.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from cluster.fixtures import CLUSTER_MARKS
from manifests import KERNEL_ACCOUNT, Account, rendered, rights
from notebooks import LONG, Notebook
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes._pods import AGENT_PORT, PORTS

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]

#: Runs in the attacker's pod.
TOOLS = """
import hashlib, hmac, json, zmq
from jupyter_client.session import Session
from zmq.utils.monitor import recv_monitor_message

TYPES = {"hb": zmq.REQ, "iopub": zmq.SUB}
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
)

def opened(ip, port, channel="shell", server=None):
    # The keys of the attacker's own end are fresh; ``server`` is the public key it expects there.
    socket = zmq.Context.instance().socket(TYPES.get(channel, zmq.DEALER))
    socket.linger = 0
    socket.rcvtimeo = 60000
    if channel == "iopub":
        socket.subscribe(b"")
    if server is not None:
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = server.encode()
    return socket, "tcp://%s:%d" % (ip, port)

def handshake(ip, port, channel, server):
    # True where it succeeds, False where the other end turns the attacker away.
    socket, address = opened(ip, port, channel, server)
    monitor = socket.get_monitor_socket()
    socket.connect(address)
    if channel != "iopub":
        socket.send(b"ping")
    try:
        while monitor.poll(60000):
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return True
            if event & FAILED:
                return bool(socket.poll(0))
        raise TimeoutError("nothing came of it")
    finally:
        socket.disable_monitor()
        socket.close()

def asks(ip, port, server, key, then_key, kind, content=None):
    # A request signed with one key, then one signed with another: which of them are answered?
    socket, address = opened(ip, port, "shell", server)
    socket.connect(address)
    sent = []
    for each, what, body in ((key, kind, content or {}), (then_key, "kernel_info_request", {})):
        session = Session(key=each.encode(), signature_scheme="hmac-sha256")
        message = session.msg(what, body)
        socket.send_multipart(session.serialize(message))
        sent.append(message["header"]["msg_id"])
    told = []
    while True:
        session = Session(key=then_key.encode(), signature_scheme="hmac-sha256")
        _, frames = session.feed_identities(socket.recv_multipart())
        told.append(session.deserialize(frames)["parent_header"]["msg_id"])
        if told[-1] == sent[1]:
            socket.close()
            return [sent.index(each) for each in told]

def orders(ip, port, server, key, then_key, op):
    # The same with the agent.
    socket, address = opened(ip, port, "agent", server)
    socket.connect(address)
    for each, what in ((key, op), (then_key, "renew")):
        payload = json.dumps({"instance": "attacker", "renewal": 1, "op": what}).encode()
        signature = hmac.new(each.encode(), payload, hashlib.sha256).hexdigest()
        socket.send_multipart([signature.encode(), payload])
    signature, payload = socket.recv_multipart()
    more = socket.poll(0)
    socket.close()
    return json.loads(payload)["op"], more
"""


async def test_without_both_keys_nothing_in_a_pod_obeys(
    cluster: Any, jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    one, attacker = await notebook("1GiB").start(), await notebook("0").start()
    assert await one.run("x = 41; print('set')") == "set"
    pods = {
        each["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"]: each
        for each in objects("pods")
    }
    pod = pods[one.kernel_id]
    ip, name = pod["status"]["podIP"], pod["metadata"]["name"]
    assert pods[attacker.kernel_id]["status"]["podIP"] != ip
    secret = cluster.api.get(jupyter.path("secrets", name))["data"]
    keys = json.loads(base64.b64decode(secret["agent.json"]))
    server, key = keys["curve_publickey"], keys["key"]
    assert await attacker.run(TOOLS + "\nprint('ready')") == "ready"

    async def tell(call: str) -> Any:
        told = await attacker.run(f"print('told', json.dumps({call}))")
        assert told.startswith("told "), (call, told)
        return json.loads(told.removeprefix("told "))

    ports = {**PORTS, "agent": AGENT_PORT}
    for channel, port in ports.items():
        where = f"{ip!r}, {port}, {channel!r}"
        assert not await tell(f"handshake({where}, None)"), channel
        assert not await tell(f"handshake({where}, zmq.curve_keypair()[0].decode())"), channel
        # With the key that Alice's server has the door opens: it is the key that was missing.
        assert await tell(f"handshake({where}, {server!r})"), channel

    # Behind the door every message is signed.
    for channel in ("shell", "control"):
        where = f"{ip!r}, {ports[channel]}, {server!r}"
        for wrong in ("", "guessed", key.upper()):
            code = {"code": "x = 42", "silent": False}
            for kind, content in (
                ("execute_request", code),
                ("kernel_info_request", {}),
                ("shutdown_request", {"restart": False}),
            ):
                asked = f"asks({where}, {wrong!r}, {key!r}, {kind!r}, {content!r})"
                assert await tell(asked) == [1], (channel, wrong, kind)
    assert await tell(
        f"asks({ip!r}, {ports['shell']}, {server!r}, {key!r}, {key!r}, 'kernel_info_request')"
    ) == [0, 1]
    for op in ("quit", "end", "renew", "start"):
        where = f"{ip!r}, {AGENT_PORT}, {server!r}"
        assert await tell(f"orders({where}, 'guessed', {key!r}, {op!r})") == ["refused", 0]
    assert await one.run("print(x)") == "41"
    (after,) = [p for p in objects("pods") if p["metadata"]["uid"] == pod["metadata"]["uid"]]
    assert after["status"]["phase"] == "Running"


async def test_keys_are_in_the_secret_and_nowhere_else(
    cluster: Any, jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    one = await notebook("1GiB").start()
    (secret,) = objects("secrets")
    keys = json.loads(base64.b64decode(secret["data"]["agent.json"]))
    assert keys["key"] == one.manager.session.key.decode()
    hidden = [keys["key"], keys["curve_secretkey"], keys["curve_publickey"]]
    for what in ("pods", "configmaps", "claims", "leases", "events"):
        text = json.dumps(objects(what))
        assert not [each for each in hidden if each in text], what
    # The log of who asked the API server for what has no bodies, in this cluster at least.
    (pod,) = objects("pods")
    log = f"/api/v1/namespaces/{jupyter.namespace}/pods/{pod['metadata']['name']}/log"
    assert not [each for each in hidden if each.encode() in cluster.api.raw("GET", log)[1]]


async def test_kernels_cannot_ask_the_api_server_for_anything(
    cluster: Any, jupyter: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    one = await notebook("1GiB").start()
    (pod,) = objects("pods")
    name = pod["metadata"]["name"]
    # Within the pod there is nothing to ask with.
    look = (
        "import os, pathlib; print(os.path.exists('/var/run/secrets'), "
        "[n for n in os.environ if 'TOKEN' in n], "
        "[str(p) for p in pathlib.Path('/proc/self').glob('mounts') "
        "if 'serviceaccount' in p.read_text()])"
    )
    assert await one.run(look) == "False [] []"
    # Nor does the account help, had somebody its token.
    kernel = Account(cluster, jupyter.namespace, KERNEL_ACCOUNT)
    who = kernel.api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert who["status"]["userInfo"]["username"].endswith(f":{KERNEL_ACCOUNT}")
    role = next(item for item in rendered(cluster, "base") if item["kind"] == "Role")
    for verb, resource in sorted(rights(role)):
        kind, _, subresource = resource.partition("/")
        method = {"create": "POST", "patch": "PATCH", "delete": "DELETE"}.get(verb, "GET")
        path = kernel.path(kind, "" if verb in ("list", "watch", "create") else name)
        path += f"/{subresource}" if subresource else ""
        merge = "application/merge-patch+json"
        words = kernel.refused(method, path, {} if method == "PATCH" else None, merge)
        assert KERNEL_ACCOUNT in words
    assert "secrets" in kernel.refused("GET", kernel.path("secrets", name))
    assert "secrets" in kernel.refused("GET", kernel.path("secrets"))
    assert "nodes" in kernel.refused("GET", "/api/v1/nodes")
    await one.close()
    await eventually(lambda: not objects("secrets"), "the keys are gone with the pod", LONG)
