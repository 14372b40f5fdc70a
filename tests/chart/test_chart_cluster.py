"""The chart on a real cluster: taken by the API server, installed, upgraded, and gone again."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from charts import BROKER, FULL, HELM_MARKS, Release, in_the_test_cluster, left_over, rendered
from cluster.fixtures import CLUSTER_MARKS
from manifests import Account, kubectl
from notebooks import Notebook
from pods_of_broker import claim_of, pod_of, secret_of
from traitlets.config import Config
from waiting import eventually

from jupyter_gpu_share.runtime import Runtime

pytestmark = [*CLUSTER_MARKS, HELM_MARKS[-1]]

ALICE, BOB = f"hub-{'a' * 16}", f"hub-{'b' * 16}"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def release(cluster: Any, home: Path) -> Iterator[Release]:
    """A release that is installed, which goes with the module."""
    hub = cluster.namespace(f"hub-{secrets.token_hex(4)}")
    found = Release(cluster, home, hub, in_the_test_cluster())
    try:
        found.install("--wait", "--timeout", "120s")
        hold(found)
        yield found
    finally:
        cluster.restore()
        found.uninstall("--ignore-not-found")
        cluster.delete_namespace(hub)


def hold(release: Release) -> None:
    """Wait until the policies hold: API servers learn of them a moment later."""
    from cluster import wait_for

    account = Account(release.cluster, release.namespace, BROKER)
    wrong = secret_of("alice")

    def refused() -> bool:
        path = account.path("secrets", namespace=release.kernels)
        status, answer = account.api.raw("POST", f"{path}?dryRun=All", wrong)
        return status in (403, 422) and b"belongs to a user" in answer

    wait_for(refused, "the admission policies hold", 60)


@pytest.fixture
def broker(release: Release) -> Account:
    """The broker's account, and what the API server answers it."""
    return Account(release.cluster, release.namespace, BROKER)


# -- what the API server says of the objects ---------------------------------------------------


def test_the_api_server_takes_every_object(cluster: Any, home: Path, tmp_path: Path) -> None:
    """A dry run: nothing is made. The kinds of the Prometheus operator are not there."""
    hub = cluster.namespace(f"hub-{secrets.token_hex(4)}")
    kernels = cluster.namespace(f"{hub}-kernels")
    try:
        values = {**FULL, "metrics": {"dashboard": {"enabled": True}}}
        values["kernels"] = {**FULL["kernels"], "namespace": kernels}
        for name, each in (("default", {"kernels": {"namespace": kernels}}), ("full", values)):
            objects = rendered(home, each, "--namespace", hub)
            path = tmp_path / f"{name}.json"
            path.write_text(listed(objects))
            told = kubectl(
                cluster, "apply", "--dry-run=server", "--validate=strict", "-f", path
            ).splitlines()
            assert len(told) == len(objects)
            assert not [line for line in told if "server dry run" not in line]
    finally:
        cluster.delete_namespace(hub)
        cluster.delete_namespace(kernels)


def listed(objects: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects.values())})


def test_policies_fit_the_kinds_that_they_look_at(release: Release) -> None:
    from cluster import wait_for

    path = f"{ADMISSION}/validatingadmissionpolicies"
    own = f"{release.namespace}-{BROKER}"
    found = [
        each["metadata"]["name"]
        for each in release.cluster.api.get(path)["items"]
        if each["metadata"]["name"].startswith(own)
    ]
    assert len(found) == 5
    for name in found:

        def checked(name: str = name) -> Any:
            policy = release.cluster.api.get(f"{path}/{name}")
            done = policy.get("status", {}).get("observedGeneration")
            return policy if done == policy["metadata"]["generation"] else None

        policy = wait_for(checked, f"{name} is checked", 30)
        assert not policy["status"].get("typeChecking", {}).get("expressionWarnings"), name


# -- rights ------------------------------------------------------------------------------------


def test_users_servers_and_kernels_have_no_rights(release: Release) -> None:
    for namespace, name in (
        (release.namespace, "default"),
        (release.kernels, "default"),
        (release.kernels, "gpu-share-kernel"),
    ):
        account = Account(release.cluster, namespace, name)
        for where in (release.namespace, release.kernels, ""):
            for verb, resource in (("list", "pods"), ("create", "pods"), ("get", "secrets")):
                assert not account.may(verb, resource, where), (name, where, verb, resource)


def test_the_broker_has_rights_in_the_kernels_namespace_and_reads_of_the_cluster(
    broker: Account, release: Release
) -> None:
    for verb, resource in (("create", "pods"), ("create", "secrets"), ("get", "secrets")):
        assert broker.may(verb, resource, release.kernels)
        # Nothing of the Hub, whose Secret is beside it.
        for where in (release.namespace, "default", "kube-system", ""):
            assert not broker.may(verb, resource, where), (verb, resource, where)
    assert broker.may("list", "nodes", "")
    assert not broker.may("list", "pods", "")
    assert not broker.may("list", "secrets", release.kernels)
    for resource in ("pods/exec", "serviceaccounts/token", "pods/ephemeralcontainers"):
        assert not broker.may("create", resource, release.kernels)


class Attempts:
    """What the broker's account tries in the kernels' namespace."""

    def __init__(self, broker: Account, kernels: str) -> None:
        self._api, self._broker, self._kernels = broker.api, broker, kernels

    def path(self, resource: str, name: str = "") -> str:
        return self._broker.path(resource, name, self._kernels)

    def create(self, resource: str, body: Any, dry: bool = True) -> tuple[int, str]:
        query = "?dryRun=All" if dry else ""
        status, answer = self._api.raw("POST", self.path(resource) + query, body)
        return status, answer.decode()

    def patch(self, resource: str, name: str, body: Any) -> tuple[int, str]:
        kind = "application/merge-patch+json"
        path = self.path(resource, name) + "?dryRun=All"
        status, answer = self._api.raw("PATCH", path, body, kind)
        return status, answer.decode()


@pytest.fixture
def attempts(broker: Account, release: Release) -> Attempts:
    return Attempts(broker, release.kernels)


def test_the_policies_let_kernels_of_users_pass(attempts: Attempts) -> None:
    for resource, body in (
        ("pods", pod_of(ALICE)),
        ("secrets", secret_of(ALICE)),
        ("resourceclaims", claim_of(ALICE)),
    ):
        status, answer = attempts.create(resource, body)
        assert status == 201, answer
    lease = {"metadata": {"name": "gpu-share-broker"}, "spec": {}}
    assert attempts.create("leases", lease)[0] == 201


SERVER = "gpu-share.jupyter.org/server"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (("labels", {SERVER: "alice"}), "belongs to a user"),
        (("labels", {SERVER: "hub-short"}), "belongs to a user"),
        (("labels", {"app.kubernetes.io/managed-by": "me"}), "managed-by"),
        (("labels", {"gpu-share.jupyter.org/part": "server"}), "pods of kernels and of leases"),
        (("serviceAccountName", "default"), "ServiceAccount gpu-share-kernel"),
        (("automountServiceAccountToken", True), "no credentials"),
        (("nodeName", "node"), "scheduler's business"),
        (("volumes", [{"name": "x", "secret": {"secretName": "gpu-share-x"}}]), "keys"),
        (("volumes", [{"name": "x", "hostPath": {"path": "/"}}]), "violates PodSecurity"),
        (("hostNetwork", True), "violates PodSecurity"),
        (("finalizers", ["example.org/stay"]), "finalizers"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_the_policies_refuse_what_the_broker_never_does(
    what: tuple[str, Any], words: str, attempts: Attempts
) -> None:
    body, (field, value) = pod_of(ALICE), what
    if field == "labels":
        body["metadata"]["labels"].update(value)
    elif field == "finalizers":
        body["metadata"][field] = value
    else:
        more = isinstance(value, list)
        body["spec"][field] = [*body["spec"][field], *value] if more else value
    status, answer = attempts.create("pods", body)
    assert status in (403, 422), answer
    assert words in answer


def test_a_pod_goes_on_to_be_what_it_was_but_for_its_turn(
    cluster: Any, attempts: Attempts, release: Release
) -> None:
    body = pod_of(ALICE)
    gates = [{"name": "gpu-share.jupyter.org/turn"}, {"name": "example.org/other"}]
    body["spec"]["schedulingGates"] = gates
    name = body["metadata"]["name"]
    status, answer = attempts.create("pods", body, dry=False)
    assert status == 201, answer
    tolerations = json.loads(answer)["spec"]["tolerations"]
    try:
        for patch, words in (
            ({"metadata": {"labels": {SERVER: BOB}}}, "nothing of one server to another"),
            ({"metadata": {"labels": {"more": "x"}}}, "changes no label"),
            (
                {"spec": {"tolerations": [*tolerations, {"operator": "Exists"}]}},
                "but its annotations",
            ),
            (
                {"spec": {"schedulingGates": gates[:1], "nodeSelector": {"a": "b"}}},
                "but its annotations",
            ),
            ({"metadata": {"finalizers": ["example.org/stay"]}}, "finalizers"),
        ):
            status, answer = attempts.patch("pods", name, patch)
            assert status in (403, 422), (patch, answer)
            assert words in answer
        for patch in (
            {"metadata": {"annotations": {"gpu-share.jupyter.org/path": "a.ipynb"}}},
            {"spec": {"schedulingGates": gates[1:]}},
        ):
            status, answer = attempts.patch("pods", name, patch)
            assert status == 200, answer
    finally:
        cluster.api.delete(attempts.path("pods", name), 0)


@pytest.mark.parametrize("kind", ["kubernetes.io/service-account-token", "Opaque"])
def test_secrets_have_keys_and_nothing_else(kind: str, attempts: Attempts) -> None:
    body = secret_of(ALICE)
    body["type"] = kind
    if kind != "Opaque":
        body["metadata"]["annotations"] = {"kubernetes.io/service-account.name": BROKER}
    status, answer = attempts.create("secrets", body)
    assert (status == 201) == (kind == "Opaque"), answer


# -- kernels through it all --------------------------------------------------------------------


def kubernetes(release: Release) -> Config:
    """Kernels of one user's server, started with the broker's own rights."""
    c = Config()
    account = Account(release.cluster, release.namespace, BROKER)
    c.GpuShareProvisioner.engine = "kubernetes"
    c.KubernetesEngine.kubeconfig = str(account.kubeconfig)
    c.KubernetesEngine.namespace = release.kernels
    c.KubernetesEngine.server_name = ALICE
    c.KubernetesEngine.service_account = "gpu-share-kernel"
    c.KubernetesEngine.image = "localhost/kernel:1"
    c.KubernetesEngine.image_pull_policy = "Never"
    c.KubernetesEngine.renewal = 1.0
    return c


async def test_kernels_run_through_upgrades_and_nothing_is_left_of_a_release(
    cluster: Any, home: Path, jupyter_dirs: Path
) -> None:
    hub = cluster.namespace(f"hub-{secrets.token_hex(4)}")
    release = Release(cluster, home, hub, in_the_test_cluster())
    one = None
    Runtime.clear_instance()
    try:
        await asyncio.to_thread(release.install, "--wait", "--timeout", "120s")
        (first,) = release.pods()
        one = await Notebook(kubernetes(release), "1/4").start()
        await one.run("x = 42")
        patience = {"config": {"Broker": {"patience": 30}}}
        await asyncio.to_thread(release.upgrade, "--wait", "--timeout", "120s", **patience)

        def replaced() -> bool:
            return [each["metadata"]["uid"] for each in release.pods()] not in (
                [],
                [first["metadata"]["uid"]],
            )

        await eventually(replaced, "the broker has its new configuration", 60)
        (second,) = (each for each in release.pods() if "deletionTimestamp" not in each["metadata"])
        log = kubectl(cluster, "logs", "-n", hub, second["metadata"]["name"])
        assert log.split()[:2] == [release.kernels, "30"]
        assert await one.run("print(x)") == "42"
        await asyncio.to_thread(release.upgrade, "--wait", "--timeout", "120s")
        assert await one.run("print(x)") == "42"
        # One command: with the namespace go the kernels in it.
        await asyncio.to_thread(release.uninstall)
        assert await asyncio.to_thread(left_over, cluster, release) == []
    finally:
        if one is not None:
            await one.close()
        await asyncio.to_thread(Runtime.clear_instance)
        cluster.restore()
        await asyncio.to_thread(release.uninstall, "--ignore-not-found")
        cluster.delete_namespace(hub)
