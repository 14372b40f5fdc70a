"""What the users of two Jupyter servers can do to each other: nothing.

Where they have a namespace each, the Role ends at the namespace. Where they share one, the Role
does not read Secrets, and the admission policies hold what is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from manifests import DRY, KERNEL_ACCOUNT, Account, kubectl, rendered, rights
from notebooks import LONG, Notebook
from servers import Server, run_server, stop_server
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes._merge import merge
from jupyter_gpu_share.engines.kubernetes._names import object_name
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
Start = Callable[..., Server]
MERGE = "application/merge-patch+json"
PREFIX = "gpu-share.jupyter.org/"
OWN = "This belongs to the Jupyter server alice, not to bob"


class Target:
    """A kernel of Alice's server, with a variable, and what it consists of."""

    def __init__(self, one: Notebook, objects: Objects) -> None:
        self.one = one
        self._objects = objects
        (self.pod,) = objects("pods")
        self.name: str = self.pod["metadata"]["name"]
        self.ip: str = self.pod["status"]["podIP"]
        (lease,) = objects("leases")
        self.lease: str = lease["metadata"]["name"]
        self.before = self.parts()

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Identity of each object of Alice's, and what of it nobody else may change."""
        return {
            f"{what} {item['metadata']['name']}": (
                item["metadata"]["uid"],
                json.dumps(item["metadata"]["labels"], sort_keys=True),
                json.dumps(item["metadata"].get("annotations"), sort_keys=True),
                json.dumps({} if what == "leases" else item.get("spec"), sort_keys=True),
            )
            for what in ("pods", "secrets", "claims", "leases")
            for item in self._objects(what)
            if item["metadata"].get("labels", {}).get(f"{PREFIX}server") == "alice"
        }

    async def untouched(self) -> None:
        """Assert that the kernel and all of its objects are as they were."""
        assert await self.one.run("print(x)") == "41"
        assert self.parts() == self.before


@pytest.fixture
async def target(
    two_servers: tuple[Account, Account], config: Config, notebook: Make, objects: Objects
) -> Target:
    """A running kernel of Alice's, in the namespace that she shares with Bob."""
    two_servers[0].configure(config)
    one = await notebook("1GiB", adopt=False).start()
    assert await one.run("x = 41; print('set')") == "set"
    return Target(one, objects)


# -- past the package, with the server's token -------------------------------------------------


async def test_another_servers_objects_cannot_be_touched(
    two_servers: tuple[Account, Account], target: Target, objects: Objects
) -> None:
    bob, name = two_servers[1], target.name
    pod, secret = bob.path("pods", name), bob.path("secrets", name)
    claim, lease = bob.path("resourceclaims", f"{name}-gpu"), bob.path("leases", target.lease)
    mine = {"metadata": {"labels": {f"{PREFIX}server": "bob"}}}
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    shell = {"name": "shell", "image": "localhost/kernel:1"}
    no_right = "cannot"
    attempts: list[tuple[str, str, Any, str]] = [
        # What Bob's Role has a verb for: the policies refuse it.
        ("DELETE", pod, None, OWN),
        ("DELETE", f"{pod}?gracePeriodSeconds=0", {"propagationPolicy": "Orphan"}, OWN),
        ("PATCH", pod, mine, OWN),
        ("PATCH", pod, {"metadata": {"annotations": {f"{PREFIX}instance": "bobs"}}}, OWN),
        ("PATCH", pod, {"metadata": {"finalizers": ["a.b/c"]}}, OWN),
        ("PATCH", pod, {"spec": {"activeDeadlineSeconds": 1}}, "denied request"),
        ("DELETE", claim, None, OWN),
        ("DELETE", lease, None, OWN),
        ("PATCH", lease, {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}, OWN),
        # What it has none for.
        ("GET", secret, None, no_right),
        ("GET", bob.path("secrets"), None, no_right),
        ("GET", f"{bob.path('secrets')}?watch=1", None, no_right),
        ("DELETE", secret, None, no_right),
        ("PATCH", secret, mine, no_right),
        ("PATCH", claim, mine, no_right),
        ("DELETE", bob.path("pods"), None, no_right),
        ("GET", f"{pod}/log", None, no_right),
        ("POST", f"{pod}/exec?command=id&stdout=1", None, no_right),
        ("GET", f"{pod}/exec?command=id&stdout=1", None, no_right),
        ("POST", f"{pod}/attach?stdout=1", None, no_right),
        ("POST", f"{pod}/portforward?ports=52001", None, no_right),
        ("GET", f"{pod}:52001/proxy/", None, no_right),
        (
            "PATCH",
            f"{pod}/ephemeralcontainers",
            {"spec": {"ephemeralContainers": [shell]}},
            no_right,
        ),
        ("PATCH", f"{pod}/status", {"status": {"phase": "Failed"}}, no_right),
        ("POST", f"{pod}/eviction", evict, no_right),
        ("POST", bob.path("serviceaccounts", "alice") + "/token", {"spec": {}}, no_right),
    ]
    for method, path, body, words in attempts:
        told = bob.refused(method, path, body, MERGE if method == "PATCH" else "application/json")
        assert words in told, (method, path, told)
    await target.untouched()
    assert len(objects("pods")) == 1


async def test_another_servers_pods_cannot_be_touched_by_whoever_has_all_rights_on_them(
    cluster: Any, two_servers: tuple[Account, Account], target: Target
) -> None:
    """Somebody was careless, and has bound Bob to ``cluster-admin`` in the namespace."""
    bob, name = two_servers[1], target.name
    subject = f"--serviceaccount={bob.namespace}:bob"
    role = "--clusterrole=cluster-admin"
    kubectl(cluster, "create", "rolebinding", "careless", role, subject, "-n", bob.namespace)
    await eventually(lambda: bob.may("create", "pods/exec"), "the binding counts", LONG)
    pod, secret = bob.path("pods", name), bob.path("secrets", name)
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    shell = {"name": "shell", "image": "localhost/kernel:1", "securityContext": context}
    files = next(
        each["metadata"]["name"]
        for each in cluster.api.get(bob.path("configmaps"))["items"]
        if each["metadata"]["name"].startswith("gpu-share-files-")
    )
    label = {"metadata": {"labels": {f"{PREFIX}server": "bob"}}}
    use = "has no use for"
    attempts: list[tuple[str, str, Any, str]] = [
        ("DELETE", pod, None, OWN),
        ("DELETE", secret, None, OWN),
        ("PATCH", secret, label, OWN),
        ("DELETE", bob.path("pods"), None, "belongs to"),
        ("DELETE", bob.path("secrets"), None, "belongs to"),
        ("DELETE", bob.path("resourceclaims"), None, "belongs to"),
        ("PATCH", bob.path("resourceclaims", f"{name}-gpu"), label, OWN),
        ("PATCH", f"{bob.path('resourceclaims', f'{name}-gpu')}/status", {"status": {}}, use),
        ("DELETE", bob.path("configmaps", files), None, "changes none"),
        ("POST", f"{pod}/exec?command=id&stdout=1", None, use),
        ("GET", f"{pod}/exec?command=id&stdout=1", None, use),
        ("POST", f"{pod}/attach?stdout=1", None, use),
        ("POST", f"{pod}/portforward?ports=52001", None, use),
        ("GET", f"{pod}:52001/proxy/", None, use),
        ("PATCH", f"{pod}/ephemeralcontainers", {"spec": {"ephemeralContainers": [shell]}}, use),
        ("PATCH", f"{pod}/status", {"status": {"message": "x"}}, use),
        ("POST", f"{pod}/eviction", evict, use),
        ("POST", bob.path("serviceaccounts", "alice") + "/token", {"spec": {}}, use),
    ]
    for method, path, body, words in attempts:
        kind = "strategic-merge-patch" if path.endswith("containers") else "merge-patch"
        kind = f"application/{kind}+json" if method == "PATCH" else "application/json"
        told = bob.refused(method, path, body, kind)
        assert words in told, (method, path, told)
    # That the rights are there shows where the policies do not look.
    assert bob.api.get(secret)["metadata"]["name"] == name
    await target.untouched()


async def test_a_pod_cannot_be_made_that_has_a_part_of_another_servers_kernel(
    cluster: Any, two_servers: tuple[Account, Account], target: Target, objects: Objects
) -> None:
    bob = two_servers[1]
    name, pods = target.name, bob.path("pods")
    plain = bob.pod()
    own_name = plain["metadata"]["name"]
    bob.api.create(pods + DRY, plain)
    lent = {"name": "home", "persistentVolumeClaim": {"claimName": "home-alice"}}
    copied = {"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "home-alice"}}}
    copied["spec"] |= {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    in_env = {"name": "K", "valueFrom": {"secretKeyRef": {"name": name, "key": "agent.json"}}}
    csi = {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"secretProviderClass": "a"}}
    keys, volumes = "no other kernel's keys", "no copies"
    specs: list[tuple[dict[str, Any], str]] = [
        ({"volumes": [{"name": "k", "secret": {"secretName": name}}]}, keys),
        ({"volumes": [{"name": "k", "secret": {"secretName": "git-alice"}}]}, keys),
        (
            {"volumes": [{"name": "k", "projected": {"sources": [{"secret": {"name": name}}]}}]},
            keys,
        ),
        ({"volumes": [{"name": "k", "csi": csi}]}, keys),
        ({"containers": [{"name": "kernel", "env": [in_env]}]}, keys),
        ({"containers": [{"name": "kernel", "envFrom": [{"secretRef": {"name": name}}]}]}, keys),
        ({"volumes": [lent]}, volumes),
        ({"volumes": [{"name": "c", "ephemeral": {"volumeClaimTemplate": copied}}]}, volumes),
        ({"serviceAccountName": "alice"}, "gpu-share-kernel"),
        ({"serviceAccountName": "bob"}, "gpu-share-kernel"),
    ]
    for spec, words in specs:
        told = bob.refused("POST", pods, merge(plain, {"spec": spec}))
        assert words in told, (spec, told)

    claims = "its own ResourceClaims"
    for wanted in (f"{name}-gpu", target.lease, f"{own_name}-gpu-2", own_name):
        pod = deepcopy(plain)
        pod["spec"]["resourceClaims"][0]["resourceClaimName"] = wanted
        assert claims in bob.refused("POST", pods, pod), wanted
    # A pod called as the first part of the name of somebody's lease, and that lease for a claim.
    base = object_name("alice", target.one.kernel_id, "lease")
    pod = bob.pod(name=base.removesuffix("-lease"), claims={"lease-0123abcd": f"{base}-0123abcd"})
    assert claims in bob.refused("POST", pods, pod)

    for labels in (
        {f"{PREFIX}server": "alice"},
        {f"{PREFIX}server": "jupyter"},
        {f"{PREFIX}server": "bob "},
        {f"{PREFIX}server": ""},
        {f"{PREFIX}part": "server"},
        {f"{PREFIX}part": "connection"},
        {"app.kubernetes.io/managed-by": "Helm"},
    ):
        pod = merge(plain, {"metadata": {"labels": labels}})
        status, answer = bob.api.raw("POST", pods, pod)
        assert status in (403, 422), (labels, status, answer)
    for wrong in ("bobs", f"{own_name}0", f"{own_name}-lease-0123abcd", "hub"):
        bob.refused("POST", pods, merge(plain, {"metadata": {"name": wrong}}))
    assert [pod["metadata"]["name"] for pod in objects("pods")] == [name]
    await target.untouched()

    # What Bob may get, his pods may have.
    where = ("-n", bob.namespace)
    what = ("--verb=get", "--resource=persistentvolumeclaims", "--resource-name=home-bob")
    kubectl(cluster, "create", "role", "home-bob", *what, *where)
    subject = f"--serviceaccount={bob.namespace}:bob"
    kubectl(cluster, "create", "rolebinding", "home-bob", "--role=home-bob", subject, *where)
    lent["persistentVolumeClaim"] = {"claimName": "home-bob"}
    pod = merge(plain, {"spec": {"volumes": [lent]}})
    await eventually(
        lambda: bob.api.raw("POST", pods + DRY, pod)[0] == 201, "his own volume is let in", LONG
    )


async def test_nothing_can_be_made_in_another_servers_name_or_for_its_account(
    two_servers: tuple[Account, Account], target: Target, objects: Objects
) -> None:
    bob = two_servers[1]
    labels, theirs = bob.pod()["metadata"]["labels"], target.pod["metadata"]["labels"]
    own = object_name("bob", "k-1")
    token = {"kubernetes.io/service-account.name": "alice"}
    files = {"metadata": {"name": "gpu-share-files-0123456789abcdef", "labels": labels}}
    right = deepcopy(files) | {"immutable": True}
    right["metadata"]["labels"] = {f"{PREFIX}part": "files"}
    bob.api.create(bob.path("configmaps") + DRY, right)
    spec = {
        "devices": {"requests": [{"name": "g", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}
    }
    good = {"metadata": {"name": f"{own}-gpu", "labels": labels}, "spec": spec}
    bob.api.create(bob.path("resourceclaims") + DRY, good)
    admin = deepcopy(good)
    admin["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = True

    def meta(name: str, labels: dict[str, str], **more: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "labels": labels, **more}}

    attempts: list[tuple[str, dict[str, Any], str]] = [
        # The token controller would fill this one in.
        (
            "secrets",
            meta(own, labels, annotations=token) | {"type": "kubernetes.io/service-account-token"},
            "Opaque",
        ),
        ("secrets", meta(object_name("alice", "k-2"), theirs), "name of its ServiceAccount"),
        ("secrets", meta(own, {}), "name of its ServiceAccount"),
        ("secrets", meta("registry", labels), "no name that a Jupyter server gives"),
        ("resourceclaims", meta(f"{own}-gpu", theirs) | {"spec": spec}, "name of its Service"),
        ("resourceclaims", meta("theirs", labels) | {"spec": spec}, "no name that a Jupyter"),
        ("resourceclaims", good | meta(f"{own}-gpu", labels, finalizers=["a.b/c"]), "finalizers"),
        ("resourceclaims", admin, "admin"),
        ("leases", meta("gpu-share-alice-0123abcd", theirs), "name of its ServiceAccount"),
        ("leases", meta("gpu-share-alice-0123abcd", labels), "no name that a Jupyter"),
        ("leases", meta("gpu-share-bob-0-0123abcd", labels), "no name that a Jupyter"),
        ("configmaps", files, "immutable"),
        ("configmaps", right | meta("settings-of-alice", {f"{PREFIX}part": "files"}), "immutable"),
    ]
    for what, body, words in attempts:
        status, answer = bob.api.raw("POST", bob.path(what), body)
        assert status in (403, 422), (what, body, status)
        assert words in json.loads(answer)["message"], (what, answer)
    labels_there = [
        item["metadata"].get("labels") or {}
        for what in ("secrets", "claims", "leases", "configmaps")
        for item in objects(what)
    ]
    assert "bob" not in [each.get(f"{PREFIX}server") for each in labels_there]
    await target.untouched()


async def test_a_servers_own_pod_cannot_become_something_else(
    two_servers: tuple[Account, Account],
) -> None:
    bob = two_servers[1]
    pod = merge(bob.pod(), {"spec": {"nodeSelector": {"no": "such-node"}}})
    made = bob.api.create(bob.path("pods"), pod)
    path = bob.path("pods", made["metadata"]["name"])
    for change, words in (
        ({"metadata": {"labels": {f"{PREFIX}server": "alice"}}}, "name of its ServiceAccount"),
        ({"metadata": {"labels": {f"{PREFIX}server": None}}}, "name of its ServiceAccount"),
        ({"metadata": {"labels": {f"{PREFIX}part": "server"}}}, "changes no label"),
        ({"metadata": {"labels": {"app": "web"}}}, "changes no label"),
        ({"metadata": {"finalizers": ["a.b/c"]}}, "finalizers"),
        (
            {"spec": {"containers": [{"name": "kernel", "image": "localhost/pause:1"}]}},
            "annotations",
        ),
    ):
        kind = "strategic-merge-patch" if "spec" in change else "merge-patch"
        told = bob.refused("PATCH", path, change, f"application/{kind}+json")
        assert words in told, (change, told)
    note = {"metadata": {"annotations": {f"{PREFIX}instance": "next"}}}
    assert bob.api.patch(path, note)["metadata"]["annotations"][f"{PREFIX}instance"] == "next"
    assert bob.api.delete(path, grace=0)


async def test_of_finalizers_a_pod_has_kueues_alone_and_with_its_gate(
    two_servers: tuple[Account, Account],
) -> None:
    """Such a pod never runs without Kueue, which takes both away."""
    bob = two_servers[1]
    mine = {"metadata": {"finalizers": ["kueue.x-k8s.io/managed"]}}
    gate = {"spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}}
    path = bob.path("pods") + DRY
    assert bob.api.create(path, merge(merge(bob.pod(), mine), gate))
    for change in (
        mine,
        merge(mine, {"spec": {"schedulingGates": [{"name": "a.b/c"}]}}),
        merge(gate, {"metadata": {"finalizers": ["kueue.x-k8s.io/managed", "a.b/c"]}}),
    ):
        assert "finalizers" in bob.refused("POST", path, merge(bob.pod(), change))


async def test_without_pod_security_the_namespace_takes_no_pods(
    cluster: Any, jupyter: Account
) -> None:
    pods, pod = jupyter.path("pods"), jupyter.pod()
    jupyter.api.create(pods + DRY, pod)
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    cluster.api.patch(f"/api/v1/namespaces/{jupyter.namespace}", label)
    await eventually(
        lambda: jupyter.api.raw("POST", pods + DRY, pod)[0] == 403, "the label counts", LONG
    )
    assert "restricted Pod Security" in jupyter.refused("POST", pods + DRY, pod)


async def test_with_a_namespace_each_nothing_of_another_server_can_even_be_read(
    jupyter: Account, another_namespace: Account, config: Config, notebook: Make, objects: Objects
) -> None:
    jupyter.configure(config)
    one = await notebook("1GiB").start()
    assert await one.run("x = 41; print('set')") == "set"
    (pod,) = objects("pods")
    name, there = pod["metadata"]["name"], another_namespace
    asked = 0
    for verb, resource in sorted(
        rights(next(item for item in rendered(jupyter.cluster, "base") if item["kind"] == "Role"))
    ):
        kind, _, subresource = resource.partition("/")
        method = {"create": "POST", "patch": "PATCH", "delete": "DELETE"}.get(verb, "GET")
        path = jupyter.path(kind, "" if verb in ("list", "watch", "create") else name)
        path += f"/{subresource}" if subresource else ""
        told = there.refused(method, path, {} if method == "PATCH" else None, MERGE)
        assert f'in the namespace "{jupyter.namespace}"' in told
        asked += 1
    assert asked > 15
    assert await one.run("print(x)") == "41"


# -- through a Jupyter server ------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Jupyter servers of accounts."""
    running: list[Server] = []

    def run(account: Account, **settings: Any) -> Server:
        traits = {
            "kubeconfig": account.kubeconfig,
            "namespace": account.namespace,
            "service_account": KERNEL_ACCOUNT,
            "image": "localhost/kernel:1",
            "image_pull_policy": "Never",
            "sweep_interval": 2.0,
            **settings,
        }
        options = [f"--KubernetesEngine.{name}={value}" for name, value in traits.items()]
        options += ["--GpuShareProvisioner.engine=kubernetes", "--GpuShareProvisioner.size=1GiB"]
        running.append(run_server(tmp_path / f"server-{len(running)}", *options))
        return running[-1]

    yield run
    for server in running:
        if server.process.poll() is None:
            stop_server(server)


async def test_the_id_of_another_servers_kernel_is_of_no_use(
    two_servers: tuple[Account, Account], target: Target, start: Start, objects: Objects
) -> None:
    server = await asyncio.to_thread(start, two_servers[1])
    kernel_id = target.one.kernel_id
    one = f"gpu-share/allocations/{kernel_id}"
    for method, path, body in (
        ("GET", one, None),
        ("PATCH", one, {"size": "2GiB", "restart": True}),
        ("PATCH", one, {"keep_until": None}),
        ("POST", f"{one}/release", {"lose_variables": True}),
        ("POST", f"{one}/wake", {}),
        ("GET", f"api/kernels/{kernel_id}", None),
        ("POST", f"api/kernels/{kernel_id}/interrupt", None),
        ("DELETE", f"api/kernels/{kernel_id}", None),
    ):
        status, _ = await asyncio.to_thread(server.fetch, path, method, body)
        assert status == 404, (method, path, status)
    # Jupyter's own answer to a restart of what is not there is another one.
    status, _ = await asyncio.to_thread(server.fetch, f"api/kernels/{kernel_id}/restart", "POST")
    assert status == 500
    assert await asyncio.to_thread(server.ok, "gpu-share/allocations") == []
    # Bob can use the same id; what he gets is another kernel.
    await asyncio.to_thread(server.start_kernel, "1GiB", kernel_id)
    mine = [p for p in objects("pods") if p["metadata"]["labels"][f"{PREFIX}server"] == "bob"]
    assert len(mine) == 1
    assert mine[0]["metadata"]["name"] != target.name
    await asyncio.to_thread(server.ok, f"api/kernels/{kernel_id}", "DELETE")
    await target.untouched()


@pytest.mark.parametrize("adopt", [True, False])
async def test_a_server_that_calls_itself_like_another_one_gets_nothing(
    adopt: bool, cluster: Any, two_servers: tuple[Account, Account], target: Target, start: Start
) -> None:
    bob = two_servers[1]
    # As if Alice's server had just gone: her Lease is not there.
    lease = bob.path("leases", target.lease)
    cluster.api.delete(lease)
    target.before = target.parts()
    since = cluster.audit_position()
    server = await asyncio.to_thread(start, bob, server_name="alice", adopt=adopt)
    attempt = ("get", "secrets") if adopt else ("delete", "pods")

    def attempted() -> bool:
        return any(
            (entry["verb"], entry.get("objectRef", {}).get("resource")) == attempt
            and entry["user"]["username"].endswith(":bob")
            and entry["responseStatus"]["code"] == 403
            for entry in cluster.audit(since)
        )

    await eventually(attempted, "it has tried to take or to end the kernel", LONG)
    status, answer = await asyncio.to_thread(
        server.fetch, "api/kernels", "POST", {"name": "python3"}
    )
    assert status == 503
    assert "c.KubernetesEngine.server_name" in answer["message"]
    assert await asyncio.to_thread(server.ok, "api/kernels") == []
    # Alice's server puts its Lease back at the next renewal.
    target.before = {key: row for key, row in target.before.items() if not key.startswith("leases")}
    await eventually(lambda: len(target.parts()) > len(target.before), "the Lease is back", LONG)
    assert await target.one.run("print(x)") == "41"
    assert target.before.items() <= target.parts().items()


async def test_a_server_in_a_shared_namespace_leaves_its_earlier_kernels_alone_and_goes_on(
    two_servers: tuple[Account, Account], start: Start, objects: Objects
) -> None:
    """It may not read their keys; nothing breaks because of that."""
    bob = two_servers[1]
    first = await asyncio.to_thread(start, bob)
    kernel_id = await asyncio.to_thread(first.start_kernel, "1GiB")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(PATIENCE)
    (old,) = objects("pods")
    second = await asyncio.to_thread(start, bob)
    await eventually(
        lambda: "cannot be taken over" in second.log.read_text(), "it has looked", LONG
    )
    assert await asyncio.to_thread(second.ok, "api/kernels") == []
    # A client that comes back with the id gets a fresh kernel.
    await asyncio.to_thread(second.start_kernel, "1GiB", kernel_id)
    names = {pod["metadata"]["name"] for pod in objects("pods")}
    assert len(names - {old["metadata"]["name"]}) == 1


async def test_a_claim_that_is_called_like_a_part_of_a_kernel_does_not_become_one(
    cluster: Any, two_servers: tuple[Account, Account], target: Target
) -> None:
    bob = two_servers[1]
    spec = {
        "devices": {"requests": [{"name": "g", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}
    }
    planted = f"{target.name}-planted"
    meta = {"name": planted, "labels": bob.pod()["metadata"]["labels"]}
    bob.api.create(bob.path("resourceclaims"), {"metadata": meta, "spec": spec})
    own = {"name": "later", "labels": target.pod["metadata"]["labels"]}
    cluster.api.create(bob.path("resourceclaims"), {"metadata": own, "spec": spec})
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine("kubernetes"))
    claims = engine._cluster.claims
    await eventually(lambda: "later" in claims.objects, "what came later is seen", LONG)
    assert planted not in claims.objects
    assert set(engine._cluster.own_claims(engine._cluster.server, f"{target.name}-")) == {
        f"{target.name}-gpu"
    }


async def test_a_sweep_removes_its_own_dead_leases_beside_those_of_others(
    cluster: Any, target: Target
) -> None:
    """Another server's come first in the list, and may not be deleted."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{target.pod['metadata']['namespace']}/leases"
    long_ago = "2020-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": long_ago}
    for server in ("aaa", "alice"):
        labels = {
            "app.kubernetes.io/managed-by": "jupyter-gpu-share",
            f"{PREFIX}server": server,
            f"{PREFIX}part": "server",
        }
        meta = {"name": f"gpu-share-{server}-00000000", "labels": labels}
        cluster.api.create(leases, {"metadata": meta, "spec": spec})
    runtime = Runtime.instance()
    engine: Any = await runtime.call(runtime.engine("kubernetes"))
    sweeper = engine._sweeper
    await runtime.call(sweeper.sweep())
    # What they say of the time says nothing: they were not seen to stay as they are.
    assert len(cluster.api.get(leases)["items"]) == 3
    sweeper.signs.clock = lambda: time.monotonic() + 1000.0
    for _ in range(2):  # there seems to be one more server: it is its turn every other time
        await runtime.call(sweeper.sweep())
    left = {item["metadata"]["name"] for item in cluster.api.get(leases)["items"]}
    assert left == {"gpu-share-aaa-00000000", target.lease}
