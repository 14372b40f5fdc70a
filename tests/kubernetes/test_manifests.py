"""What ``etc/kubernetes`` grants and allows: enough for a Jupyter server, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from manifests import (
    FOLDER,
    KERNEL_ACCOUNT,
    Account,
    apply_to,
    held,
    kubectl,
    rendered,
    rights,
)
from network_policy import Peer, allows
from notebooks import LONG, Notebook
from servers import run_server, stop_server
from traitlets.config import Config
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.kubernetes._pods import AGENT_PORT, PORTS
from jupyter_gpu_share.runtime import Runtime

pytestmark = CLUSTER_MARKS

Make = Callable[..., Notebook]
Objects = Callable[[str], list[dict[str, Any]]]
RBAC = "rbac.authorization.k8s.io"
GROUPS = {
    "resourceclaims": "resource.k8s.io",
    "leases": "coordination.k8s.io",
    "roles": RBAC,
    "rolebindings": RBAC,
    "clusterroles": RBAC,
    "networkpolicies": "networking.k8s.io",
    "resourceslices": "resource.k8s.io",
    "jobs": "batch",
    "deployments": "apps",
    "validatingadmissionpolicies": "admissionregistration.k8s.io",
}


async def engine() -> Any:
    """The engine that the kernels of this process use."""
    runtime = Runtime.instance()
    return await runtime.call(runtime.engine("kubernetes"))


# -- a launch with what is granted -------------------------------------------------------------


@pytest.fixture
def standing(cluster: Any, policies: None) -> Iterator[None]:
    """Removes what a test has applied as it stands."""
    yield
    cluster.restore()
    for name in ("gpu-share", "gpu-share-alice"):
        if name in {
            each["metadata"]["name"] for each in cluster.api.get("/api/v1/namespaces")["items"]
        }:
            cluster.delete_namespace(name, wait=True)
    for kind in ("clusterrole", "clusterrolebinding"):
        for name in ("gpu-share-cluster-read", "gpu-share-cluster-read-pods"):
            kubectl(cluster, "delete", "--ignore-not-found", kind, name)


async def test_every_layout_carries_kernels_as_it_stands(
    cluster: Any, config: Config, notebook: Make, standing: None
) -> None:
    async def launch(account: Account, size: str, style: str) -> None:
        held(account)
        account.configure(config)
        one = await notebook(size, style=style).start()
        assert await one.run("print('here')") == "here"
        for pod in cluster.api.get(account.path("pods"))["items"]:
            assert pod["metadata"]["labels"]["gpu-share.jupyter.org/server"] == account.name
            assert pod["spec"]["serviceAccountName"] == KERNEL_ACCOUNT
            assert not pod["spec"]["automountServiceAccountToken"]
        await one.close()
        await asyncio.to_thread(Runtime.clear_instance)
        await eventually(
            lambda: not cluster.api.get(account.path("pods"))["items"], "all is gone", LONG
        )

    def apply(folder: str) -> None:
        kubectl(cluster, "apply", "-k", FOLDER / folder)

    own = Account(cluster, "gpu-share")
    apply("base")
    await launch(own, "20GiB", "pod")  # of a fraction nothing can be known yet
    apply("overlays/cluster-read-pods")
    await eventually(lambda: own.may("list", "pods", ""), "all pods may be read")
    kubectl(cluster, "delete", "-k", FOLDER / "overlays/cluster-read-pods")
    apply("overlays/cluster-read")
    await eventually(lambda: not own.may("list", "pods", ""), "no right to all pods is left")
    await eventually(
        lambda: all(
            own.may("list", each, "", group=group)
            for each, group in (("nodes", ""), ("resourceslices", "resource.k8s.io"))
        ),
        "nodes and their devices may be read",
    )
    await launch(own, "1/4", "pod")
    await launch(own, "1/4", "lease")
    apply("overlays/admin-access")
    await launch(own, "1/4", "lease")
    apply("overlays/alice")
    await launch(Account(cluster, "gpu-share-alice"), "20GiB", "pod")
    apply("overlays/shared")
    await launch(own, "1/4", "pod")


async def test_a_server_uses_every_right_that_it_has_and_lacks_none(
    cluster: Any,
    jupyter: Account,
    cluster_read: Callable[[Account], None],
    config: Config,
    notebook: Make,
    tmp_path: Path,
) -> None:
    apply_to(cluster, jupyter.namespace, tmp_path, "admin-access")
    cluster_read(jupyter)
    since = cluster.audit_position()
    # A server starts a kernel, is killed, and the next one takes it over.
    traits = {
        "kubeconfig": jupyter.kubeconfig,
        "namespace": jupyter.namespace,
        "service_account": KERNEL_ACCOUNT,
        "image": "localhost/kernel:1",
        "image_pull_policy": "Never",
        "sweep_interval": 5.0,
    }
    options = [f"--KubernetesEngine.{name}={value}" for name, value in traits.items()]
    options.append("--GpuShareProvisioner.engine=kubernetes")
    servers = []
    try:
        servers.append(run_server(tmp_path / "first", *options))
        kernel_id = servers[0].start_kernel("1/4")
        os.kill(servers[0].process.pid, signal.SIGKILL)
        servers[0].process.wait(PATIENCE)
        servers.append(run_server(tmp_path / "second", *options))
        await eventually(
            lambda: servers[1].kernels() == [kernel_id],
            "the kernel is taken over",
            LONG,
        )
        servers[1].ok(f"api/kernels/{kernel_id}", "DELETE")
    finally:
        for server in servers:
            if server.process.poll() is None:
                stop_server(server)
    # A share is given back and taken again, and what a kernel has printed is read.
    jupyter.configure(config)
    one = await notebook("1/4", style="lease").start()
    runtime, kubernetes = Runtime.instance(), await engine()
    await runtime.call(kubernetes.give_back(one.kernel_id))
    await runtime.call(asyncio.wait_for(kubernetes.take_back(one.kernel_id, print), LONG))
    await runtime.call(kubernetes._kernels[one.kernel_id].objects.last_words())
    # A claim is created once more, as when the first answer was lost.
    claim = cluster.api.get(jupyter.path("resourceclaims"))["items"][0]
    meta = {key: claim["metadata"][key] for key in ("name", "labels", "annotations")}
    from jupyter_gpu_share.engines.kubernetes.api import CLAIMS

    body = {"apiVersion": CLAIMS.api_version, "kind": CLAIMS.kind, "metadata": meta}
    again = await runtime.call(
        kubernetes._cluster.api.create(CLAIMS, body | {"spec": claim["spec"]}, jupyter.namespace)
    )
    assert again["metadata"]["uid"] == claim["metadata"]["uid"]
    await one.close()
    await asyncio.to_thread(Runtime.clear_instance)

    user = f"system:serviceaccount:{jupyter.namespace}:{jupyter.name}"
    used, lacking = set(), set()
    for entry in cluster.audit(since):
        about = entry.get("objectRef", {})
        if entry["user"]["username"] != user or about.get("namespace") != jupyter.namespace:
            continue
        subresource = f"/{about['subresource']}" if "subresource" in about else ""
        right = entry["verb"], about["resource"] + subresource
        allowed = entry["annotations"]["authorization.k8s.io/decision"] == "allow"
        (used if allowed else lacking).add(right)
    roles = [item for item in rendered(cluster, "overlays/admin-access") if item["kind"] == "Role"]
    granted = set().union(*map(rights, roles))
    assert not lacking
    # What the policies ask about, what the doctor alone reads, and what is read of a pod that waits
    # for nodes.
    spare = {("get", "persistentvolumeclaims"), ("get", "namespaces"), ("list", "events")}
    assert granted - used == spare


async def test_doctor_finds_nothing_missing_and_names_what_is(
    cluster: Any, jupyter: Account, config: Config, notebook: Make, tmp_path: Path
) -> None:
    jupyter.configure(config)
    notebook("20GiB")

    async def findings() -> dict[str, str]:
        runtime, kubernetes = Runtime.instance(config), await engine()
        found = await runtime.call(kubernetes.diagnose())
        return {each.what: each.level for each in found}

    told = await findings()
    assert told["The rights in the namespace suffice."] == "ok"
    assert "error" not in told.values()
    assert not any("may not read Secrets" in text for text in told)

    apply_to(cluster, jupyter.namespace, tmp_path, "shared")
    told = await findings()
    assert told["The rights in the namespace suffice."] == "ok"
    assert any("may not read Secrets" in text for text in told)
    assert any("before they fail to start" in text for text in told)

    role = f"/apis/{RBAC}/v1/namespaces/{jupyter.namespace}/roles/gpu-share-server"
    rules = cluster.api.get(role)["rules"]
    kept = [{**rule, "verbs": [v for v in rule["verbs"] if v != "create"]} for rule in rules]
    cluster.api.patch(role, {"rules": [rule for rule in kept if rule["verbs"]]})
    await eventually(lambda: not jupyter.may("create", "pods"), "the right is gone")
    told = await findings()
    words = f"This server may not create pods in {jupyter.namespace!r}."
    assert told[words] == "error"


# -- what is not granted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "pods/exec"),
        ("get", "pods/exec"),
        ("create", "pods/attach"),
        ("create", "pods/portforward"),
        ("get", "pods/proxy"),
        ("patch", "pods/ephemeralcontainers"),
        ("create", "pods/eviction"),
        ("create", "pods/binding"),
        ("patch", "pods/status"),
        ("update", "pods"),
        ("deletecollection", "pods"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("delete", "secrets"),
        ("patch", "secrets"),
        ("list", "configmaps"),
        ("delete", "configmaps"),
        ("patch", "configmaps"),
        ("patch", "resourceclaims"),
        ("update", "resourceclaims/status"),
        ("list", "persistentvolumeclaims"),
        ("create", "persistentvolumeclaims"),
        ("create", "serviceaccounts"),
        ("create", "serviceaccounts/token"),
        ("impersonate", "serviceaccounts"),
        ("create", "roles"),
        ("bind", "roles"),
        ("escalate", "roles"),
        ("create", "rolebindings"),
        ("delete", "networkpolicies"),
        ("create", "services"),
        ("create", "jobs"),
        ("create", "deployments"),
        ("get", "namespaces"),
        ("patch", "namespaces"),
        ("watch", "events"),
    ],
)
def test_a_server_may_not(verb: str, resource: str, jupyter: Account) -> None:
    group = GROUPS.get(resource.partition("/")[0], "")
    assert jupyter.may("create", "pods")  # it is looked up for the right account
    assert not jupyter.may(verb, resource, group=group)


def test_a_server_may_nothing_in_another_namespace_nor_in_the_whole_cluster(
    jupyter: Account, another_namespace: Account
) -> None:
    role = [item for item in rendered(jupyter.cluster, "base") if item["kind"] == "Role"]
    for verb, resource in sorted(set().union(*map(rights, role))):
        group = GROUPS.get(resource, "")
        assert jupyter.may(verb, resource, group=group), (verb, resource)
        for where in (another_namespace.namespace, "kube-system", "default", ""):
            assert not jupyter.may(verb, resource, where, group=group), (verb, resource, where)
    for verb, resource in (
        ("list", "nodes"),
        ("get", "nodes/proxy"),
        ("list", "namespaces"),
        ("list", "resourceslices"),
        ("impersonate", "users"),
        ("create", "clusterroles"),
        ("delete", "validatingadmissionpolicies"),
    ):
        group = GROUPS.get(resource.partition("/")[0], "")
        assert not jupyter.may(verb, resource, "", group=group), (verb, resource)


def test_kernels_have_the_rights_of_an_account_that_nobody_has_thought_of(
    jupyter: Account,
) -> None:
    def rules(name: str) -> Any:
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        api = Account(jupyter.cluster, jupyter.namespace, name).api
        status = api.create(path, {"spec": {"namespace": jupyter.namespace}})["status"]
        # In no order of their own.
        found = [*status["resourceRules"], *status["nonResourceRules"]]
        return sorted(json.dumps(rule, sort_keys=True) for rule in found)

    assert rules(KERNEL_ACCOUNT) == rules("stranger")
    assert rules(jupyter.name) != rules("stranger")
    account = jupyter.cluster.api.get(jupyter.path("serviceaccounts", KERNEL_ACCOUNT))
    assert account["automountServiceAccountToken"] is False


def test_the_policies_fit_the_kinds_that_they_look_at(cluster: Any, jupyter: Account) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    names = [item["metadata"]["name"] for item in rendered(cluster, "policy")]
    for name in sorted(set(names)):

        def checked(name: str = name) -> dict[str, Any] | None:
            policy = cluster.api.get(f"{path}/{name}")
            done = policy.get("status", {}).get("observedGeneration")
            return policy if done == policy["metadata"]["generation"] else None

        policy = wait(checked, f"{name} is checked")
        assert not policy["status"].get("typeChecking", {}).get("expressionWarnings"), name
        assert policy["spec"]["failurePolicy"] == "Fail"


def wait(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something is so."""
    from cluster import wait_for

    return wait_for(holds, what, PATIENCE)


def test_a_quota_holds_whoever_uses_the_servers_token(
    cluster: Any, jupyter: Account, tmp_path: Path
) -> None:
    apply_to(cluster, jupyter.namespace, tmp_path, "quota")
    path = jupyter.path("resourcequotas", "gpu-share")
    wait(lambda: cluster.api.get(path).get("status", {}).get("used"), "the quota counts")
    parts = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    spec = {"devices": {"requests": [parts]}}
    for number in range(5):
        pod = jupyter.pod(f"k-{number}")["metadata"]
        body = {"metadata": {"name": f"{pod['name']}-gpu", "labels": pod["labels"]}, "spec": spec}
        if number < 4:
            jupyter.api.create(jupyter.path("resourceclaims"), body)
        else:
            assert "exceeded quota" in jupyter.refused("POST", jupyter.path("resourceclaims"), body)


# -- the network -------------------------------------------------------------------------------

SERVER_LABELS = {"gpu-share.jupyter.org/part": "server"}
SERVERS_HERE = {"gpu-share.jupyter.org/servers": "true"}
DNS = {"kubernetes.io/metadata.name": "kube-system"}


def test_kernels_hear_servers_only_and_reach_names_and_the_internet_only(
    cluster: Any, jupyter: Account
) -> None:
    """The rules as the API server has them, evaluated: no plugin here enforces them."""
    path = f"/apis/networking.k8s.io/v1/namespaces/{jupyter.namespace}/networkpolicies"
    policies = cluster.api.get(path)["items"]
    labels = jupyter.pod()["metadata"]["labels"]
    here = jupyter.namespace
    kernel = Peer("10.244.0.10", labels, here)
    other = Peer("10.244.0.11", labels, here)
    lease = Peer("10.244.0.12", labels | {"gpu-share.jupyter.org/part": "lease"}, here)
    server = Peer("10.244.0.13", SERVER_LABELS, here)
    hub = Peer("10.244.0.14", SERVER_LABELS, "hub", SERVERS_HERE)
    bystander = Peer("10.244.0.15", {"app": "web"}, here)
    stranger = Peer("10.244.0.16", SERVER_LABELS, "elsewhere", {"team": "x"})
    in_hubs = Peer("10.244.0.17", {"app": "web"}, "hub", SERVERS_HERE)
    outside = Peer("203.0.113.5")
    ports = sorted([*PORTS.values(), AGENT_PORT])

    for source in (server, hub):
        assert all(allows(policies, source, kernel, port) for port in ports)
        assert not allows(policies, source, kernel, ports[0] - 1)
        assert not allows(policies, source, kernel, ports[-1] + 1)
        assert not allows(policies, source, kernel, ports[0], "UDP")
    for source in (other, lease, bystander, stranger, in_hubs, outside):
        assert not any(allows(policies, source, kernel, port) for port in ports), source
    for source in (server, hub, kernel, bystander, outside):
        assert not allows(policies, source, lease, ports[0])

    resolver = Peer("10.96.0.10", {"k8s-app": "kube-dns"}, "kube-system", DNS)
    for protocol in ("UDP", "TCP"):
        assert allows(policies, kernel, resolver, 53, protocol)
        assert allows(policies, kernel, Peer("169.254.20.10"), 53, protocol)
        assert not allows(policies, lease, resolver, 53, protocol)
    assert not allows(policies, kernel, resolver, 9153)
    for address in ("151.101.0.223", "2a04:4e42::223"):
        assert allows(policies, kernel, Peer(address), 443)
        assert not allows(policies, lease, Peer(address), 443)
    for address in (
        "169.254.169.254",  # the metadata service of AWS, Azure, Google, OpenStack, Oracle
        "169.254.170.2",  # AWS's credentials of tasks and pods
        "169.254.170.23",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "64:ff9b::a9fe:a9fe",
        "10.96.0.1",  # the API server
        "10.244.127.1",  # a node
        "192.168.1.1",
        "172.16.0.1",
        "127.0.0.1",
        "fe80::1",
    ):
        for port in (53, 80, 443, 10250):
            assert not allows(policies, kernel, Peer(address), port), (address, port)
    for target in (other, bystander, in_hubs):
        assert not allows(policies, kernel, target, 8888)
    # Whom the policies do not mean, they do not touch.
    assert allows(policies, server, outside, 443)
    assert allows(policies, outside, server, 8888)
