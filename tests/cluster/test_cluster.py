"""The cluster is what tests take it for: a real one, with GPUs to share and programs to stop."""

from __future__ import annotations

import base64
import errno
import ipaddress
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from . import KERNEL_IMAGE, ApiError, Cluster, wait_for
from ._config import Layout
from ._host import BRIDGE, KWOK_PODS
from .build import REPOSITORY, build
from .cluster import NAME
from .fixtures import CLUSTER_MARKS

pytestmark = CLUSTER_MARKS

PATIENCE = 60.0
GIB = 2**30
PORTS = {"shell": 52001, "iopub": 52002, "stdin": 52003, "control": 52004, "hb": 52005}
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
CLAIMS = "/apis/resource.k8s.io/v1/namespaces"


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod that a restricted namespace accepts."""
    return {
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": KERNEL_IMAGE,
                    "imagePullPolicy": "Never",
                    "command": list(command),
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            **spec,
        },
    }


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """A pod's condition; empty while there is none."""
    conditions = found["status"].get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def wait_pod(cluster: Cluster, namespace: str, name: str, kind: str = "Ready") -> dict[str, Any]:
    """The pod, once a condition is true."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"

    def holds() -> dict[str, Any] | None:
        found = cluster.api.get(path)
        return found if condition(found, kind).get("status") == "True" else None

    return wait_for(
        holds,
        f"{name} is {kind}",
        PATIENCE,
        lambda: json.dumps(cluster.api.get(path)["status"], indent=1),
    )


def create_pod(cluster: Cluster, namespace: str, body: dict[str, Any]) -> None:
    cluster.api.create(f"/api/v1/namespaces/{namespace}/pods", body)


def test_the_node_is_ready_and_its_gpus_say_that_they_are_simulated(cluster: Cluster) -> None:
    found = cluster.status()
    assert found["healthy"]
    assert set(found["programs"].values()) == {"running"}
    slices = cluster.api.get("/apis/resource.k8s.io/v1/resourceslices")["items"]
    devices = [device for each in slices for device in each["spec"]["devices"]]
    assert [device["attributes"]["simulated"] for device in devices] == [{"bool": True}] * 2
    assert len({device["attributes"]["uuid"]["string"] for device in devices}) == 2
    assert {device["capacity"]["memory"]["value"] for device in devices} == {"80Gi"}


@pytest.mark.parametrize("address", ["10.96.0.1", "10.244.200.1"])
def test_no_packet_for_a_service_or_a_pod_leaves_the_machine(
    cluster: Cluster, address: str
) -> None:
    with pytest.raises(OSError) as caught:
        socket.create_connection((address, 443), timeout=5)
    # What a black hole answers; a packet on its way would run into the timeout.
    assert caught.value.errno == errno.EINVAL


def test_the_bridge_keeps_its_address_when_a_pod_comes_or_goes(cluster: Cluster) -> None:
    def ip(*words: str) -> str:
        command = ["ip", "-oneline", "link", *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def address() -> str:
        # /sys may show the links of another network than this process's.
        return ip("show", BRIDGE).partition("link/ether ")[2].split()[0]

    before = address()
    # A port with the lowest address of all.
    ip("add", "gpushare-port", "address", "02:00:00:00:00:01", "type", "veth")
    try:
        ip("set", "gpushare-port", "master", BRIDGE)
        assert address() == before
    finally:
        ip("delete", "gpushare-port")


def test_a_kernel_in_a_pod_answers_a_client_on_the_host(cluster: Cluster, namespace: str) -> None:
    key = secrets.token_hex(16)
    flags = [f"--{channel}={port}" for channel, port in PORTS.items()]
    command = ["python3", "-m", "ipykernel_launcher", "--ip=0.0.0.0", *flags]
    create_pod(cluster, namespace, pod("kernel", *command, f"--Session.key={key}"))
    address = wait_pod(cluster, namespace, "kernel")["status"]["podIP"]
    client = BlockingKernelClient()
    client.load_connection_info(
        {
            "transport": "tcp",
            "ip": address,
            "key": key,
            "signature_scheme": "hmac-sha256",
            **{f"{channel}_port": port for channel, port in PORTS.items()},
        }
    )
    client.start_channels(hb=False)  # it may take longer to start than a heartbeat may be missed
    try:
        client.wait_for_ready(timeout=PATIENCE)
        reply = client.kernel_info(reply=True, timeout=PATIENCE)
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)
    assert reply["content"]["implementation"] == "ipython"


def share(cluster: Cluster, namespace: str, name: str, **request: Any) -> None:
    """A pod with a claim of its own, which writes its environment to its log."""
    device = {"deviceClassName": "gpu.nvidia.com", **request}
    requests = [{"name": "gpu", "exactly": device}]
    cluster.api.create(
        f"{CLAIMS}/{namespace}/resourceclaims",
        {"metadata": {"name": name}, "spec": {"devices": {"requests": requests}}},
    )
    body = pod(
        name,
        "sh",
        "-c",
        "env; exec sleep infinity",
        resourceClaims=[{"name": "gpu", "resourceClaimName": name}],
    )
    body["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpu"}]}
    create_pod(cluster, namespace, body)


def memory(gib: int) -> dict[str, Any]:
    return {"capacity": {"requests": {"memory": f"{gib}Gi"}}}


def granted(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    claim = cluster.api.get(f"{CLAIMS}/{namespace}/resourceclaims/{name}")
    return claim["status"]["allocation"]["devices"]["results"][0]


def environment(cluster: Cluster, namespace: str, name: str) -> dict[str, str]:
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"

    def read() -> dict[str, str] | None:
        lines = cluster.api.raw("GET", path)[1].decode().splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        # The shell's env writes at once, and the log may be read before.
        return found if "PATH" in found else None

    return wait_for(read, f"log of {name}", PATIENCE)


def test_shares_pack_on_two_gpus_and_a_sixth_waits_for_room(
    cluster: Cluster, namespace: str
) -> None:
    sizes = {"a": 20, "b": 20, "c": 20, "d": 40, "e": 40}
    used: dict[str, int] = {}
    for name, size in sizes.items():
        # One by one: the scheduler may count a share twice while it is being allocated.
        share(cluster, namespace, name, **memory(size))
        wait_pod(cluster, namespace, name)
        device = granted(cluster, namespace, name)["device"]
        used[device] = used.get(device, 0) + size
        assert environment(cluster, namespace, name)["GPU_MEMORY_BYTES"] == str(size * GIB)
    assert sorted(used.values()) == [60, 80]

    share(cluster, namespace, "late", **memory(40))
    path = f"/api/v1/namespaces/{namespace}/pods/late"

    def refused() -> bool:
        scheduled = condition(cluster.api.get(path), "PodScheduled")
        return scheduled.get("reason") == "Unschedulable" and "claims" in scheduled["message"]

    wait_for(refused, "the sixth share is unschedulable", PATIENCE)
    cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/d")
    wait_pod(cluster, namespace, "late")
    assert environment(cluster, namespace, "late")["GPU_MEMORY_BYTES"] == str(40 * GIB)


def test_admin_access_sees_a_whole_gpu_and_is_not_accounted(
    cluster: Cluster, namespace: str
) -> None:
    # A little has to be free at the moment it is allocated, and is not held afterwards.
    admin = {"adminAccess": True, **memory(1)}
    with pytest.raises(ApiError, match="admin access"):
        share(cluster, namespace, "admin", **admin)
    labels = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    cluster.api.patch(f"/api/v1/namespaces/{namespace}", labels)
    share(cluster, namespace, "admin", **admin)
    wait_pod(cluster, namespace, "admin")
    for name in ("one", "two"):
        share(cluster, namespace, name, **memory(80))
        wait_pod(cluster, namespace, name)
    found = environment(cluster, namespace, "admin")
    assert found["GPU_MEMORY_BYTES"] == str(80 * GIB)
    holders = {environment(cluster, namespace, name)["GPU_UUID"] for name in ("one", "two")}
    assert len(holders) == 2
    assert found["GPU_UUID"] in holders


def test_the_audit_log_counts_requests(cluster: Cluster, namespace: str) -> None:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    position = cluster.audit_position()
    for name in ("one", "two", "three"):
        cluster.api.create(maps, {"metadata": {"name": name}, "data": {"key": "not-for-the-log"}})
    cluster.api.patch(f"{maps}/one", {"data": {"key": "changed"}})
    cluster.api.delete(f"{maps}/two")
    cluster.api.get(f"{maps}/three")
    events = [
        event
        for event in cluster.audit(position)
        if event.get("objectRef", {}).get("namespace") == namespace
        and event["user"]["username"] == "admin"
    ]
    verbs = [event["verb"] for event in events]
    assert verbs == ["create", "create", "create", "patch", "delete", "get"]
    assert sum(verb in WRITES for verb in verbs) == 5
    assert "not-for-the-log" not in json.dumps(events)


def test_pod_security_refuses_what_the_namespace_does_not_allow(
    cluster: Cluster, namespace: str
) -> None:
    body = pod("privileged", "sleep", "infinity")
    body["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ApiError, match="violates PodSecurity") as caught:
        create_pod(cluster, namespace, body)
    assert caught.value.status == 403


def test_a_service_account_may_do_nothing_by_itself(cluster: Cluster, namespace: str) -> None:
    path = cluster.service_account_kubeconfig(namespace, "someone", seconds=600)
    content = json.loads(path.read_text())
    authority = base64.b64decode(content["clusters"][0]["cluster"]["certificate-authority-data"])
    ssl.create_default_context(cadata=authority.decode())
    api = cluster.api_as(content["users"][0]["user"]["token"])
    review = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    user = review["status"]["userInfo"]["username"]
    assert user == f"system:serviceaccount:{namespace}:someone"
    with pytest.raises(ApiError) as caught:
        api.get(f"/api/v1/namespaces/{namespace}/pods")
    assert caught.value.status == 403


def test_the_api_server_can_be_stopped_while_pods_go_on(cluster: Cluster, namespace: str) -> None:
    create_pod(cluster, namespace, pod("stays", "sleep", "infinity"))
    before = wait_pod(cluster, namespace, "stays")
    cluster.stop("apiserver")
    assert cluster.status()["programs"]["apiserver"] == "stopped"
    with pytest.raises(OSError, match="refused"):
        cluster.api.get("/version")
    cluster.start("apiserver")
    after = wait_pod(cluster, namespace, "stays")
    containers = [found["status"]["containerStatuses"][0] for found in (before, after)]
    assert containers[0]["containerID"] == containers[1]["containerID"]


@pytest.mark.parametrize("name", ["etcd", "containerd", "kubelet", "scheduler", "kcm", "simdra"])
def test_a_crashed_program_comes_back(cluster: Cluster, namespace: str, name: str) -> None:
    share(cluster, namespace, "before", **memory(10))
    wait_pod(cluster, namespace, "before")
    cluster.kill(name)
    assert not cluster.status()["healthy"]
    cluster.restore()
    wait_pod(cluster, namespace, "before")
    share(cluster, namespace, "after", **memory(10))
    wait_pod(cluster, namespace, "after")


def test_a_paused_scheduler_binds_when_it_is_resumed(cluster: Cluster, namespace: str) -> None:
    cluster.pause("scheduler")
    assert cluster.status()["programs"]["scheduler"] == "paused"
    create_pod(cluster, namespace, pod("waits", "sleep", "infinity"))
    found = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/waits")
    assert condition(found, "PodScheduled") == {}
    cluster.resume("scheduler")
    wait_pod(cluster, namespace, "waits")


def test_kwok_plays_many_nodes(cluster: Cluster, namespace: str) -> None:
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    path = f"/api/v1/namespaces/{namespace}/pods"
    with cluster.kwok(nodes=20, gpus=2) as names:
        assert len(names) == 20
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

        def alive() -> bool:
            found = cluster.api.get(leases)["items"]
            return set(names) <= {lease["metadata"]["name"] for lease in found}

        # Without these they would be given up a minute later.
        wait_for(alive, "every node has a lease", PATIENCE)
        for number in range(43):
            body = pod(f"gpu-{number}", "sleep", "infinity")
            body["spec"]["containers"][0]["resources"] = limits
            create_pod(cluster, namespace, body)

        def settled() -> list[dict[str, Any]] | None:
            pods = cluster.api.get(path)["items"]
            waiting = [each for each in pods if condition(each, "PodScheduled").get("reason")]
            running = [each for each in pods if each["status"]["phase"] == "Running"]
            return running if len(waiting) == 3 and len(running) == 40 else None

        running = wait_for(settled, "40 pods run and 3 wait", PATIENCE)
        assert {each["spec"]["nodeName"] for each in running} == set(names)
        # Nothing at these addresses: the range is routed into a black hole.
        nowhere = ipaddress.ip_network(KWOK_PODS)
        assert all(ipaddress.ip_address(each["status"]["podIP"]) in nowhere for each in running)
    nodes = cluster.api.get("/api/v1/nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == [cluster.node]


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[Path]:
    """A cache of its own with the same parts; a short path, for sockets."""
    cache = Path(tempfile.mkdtemp(prefix="gpu-share-"))
    (cache / "jupyter-gpu-share" / "testbed").mkdir(parents=True)
    for folder in build().values():
        (cache / "jupyter-gpu-share" / "testbed" / folder.name).symlink_to(folder)
    yield cache
    shutil.rmtree(cache)


#: Runs in a network of its own: two clusters cannot share addresses and ports.
LIFE = """
import json
import subprocess
import sys

sys.path.insert(0, "tests")
from cluster import Cluster
from cluster.test_cluster import create_pod, pod, wait_pod

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
cluster = Cluster()
cluster.up()
cluster.namespace("life")
create_pod(cluster, "life", pod("lives", "sleep", "infinity"))
wait_pod(cluster, "life", "lives")
if sys.argv[1] == "crashed":
    for name in cluster.status()["programs"]:
        cluster.kill(name)
cluster.release()
Cluster().down()
found = [
    subprocess.run(["ip", "-j", what], check=True, capture_output=True).stdout
    for what in ("route", "link", "address")
]
routes, links, addresses = (json.loads(each or b"[]") for each in found)
print(json.dumps({
    "routes": routes,
    "links": [each["ifname"] for each in links],
    "addresses": [here["local"] for each in addresses for here in each["addr_info"]],
}))
"""


@pytest.mark.parametrize("end", ["orderly", "crashed"])
def test_nothing_is_left_of_a_cluster_that_is_taken_down(elsewhere: Path, end: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", LIFE, end],
        cwd=REPOSITORY,
        env={**os.environ, "XDG_CACHE_HOME": str(elsewhere), NAME: "run"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout.splitlines()[-1])
    assert left["routes"] == []
    assert not any(name.startswith(("gpushare", "veth")) for name in left["links"])
    assert all(address in {"127.0.0.1", "::1"} for address in left["addresses"])

    run = os.fsencode(elsewhere) + b"/jupyter-gpu-share/testbed/run"
    assert not Path(os.fsdecode(run)).exists()
    assert run not in Path("/proc/self/mounts").read_bytes()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert run not in command
    kept = elsewhere / "jupyter-gpu-share" / "testbed" / "last-run"
    assert (kept / "logs" / "kubelet.log").exists()
    identity = Layout(Path(os.fsdecode(run)), {}, 0).identity
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{identity}"))
    assert not list(Path("/var/lib/cni/results").glob(f"{identity}-*"))
