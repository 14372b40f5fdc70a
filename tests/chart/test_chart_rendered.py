"""What Helm makes of the chart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import (
    BROKER,
    CHART,
    ETC,
    FULL,
    HELM_MARKS,
    HUB,
    KERNELS,
    STANZAS,
    Objects,
    configured,
    rendered,
    template,
)
from cluster._helm import helm

from jupyter_gpu_share.broker.cluster.queues import read_queues
from jupyter_gpu_share.engines.kubernetes._pods import AGENT_PORT, PORTS

pytestmark = HELM_MARKS

RBAC = "rbac.authorization.k8s.io/v1"
WIDE = f"{HUB}-{BROKER}"


@pytest.fixture(scope="module")
def default(home: Path) -> Objects:
    return rendered(home)


@pytest.fixture(scope="module")
def full(home: Path) -> Objects:
    return rendered(home, FULL)


def shipped(path: str) -> list[dict[str, Any]]:
    """The objects in a file below ``etc/kubernetes``."""
    text = (ETC / "kubernetes" / path).read_text()
    return [each for each in yaml.safe_load_all(text) if each]


def pod_of(objects: Objects) -> dict[str, Any]:
    found: dict[str, Any] = objects["Deployment", BROKER]["spec"]["template"]
    return found


def environment(objects: Objects) -> dict[str, Any]:
    (container,) = pod_of(objects)["spec"]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


@pytest.mark.parametrize("values", [{}, FULL], ids=["default", "full"])
def test_helm_finds_nothing_to_complain_about(home: Path, values: dict[str, Any]) -> None:
    path = home / "lint.json"
    path.write_text(json.dumps(values))
    done = helm(home, "lint", "--strict", CHART, "--values", path)
    assert not done.returncode, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


def test_every_object_has_a_place_and_says_whose_it_is(default: Objects, full: Objects) -> None:
    everywhere = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    everywhere |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    for objects in (default, full):
        for (kind, name), each in objects.items():
            meta = each["metadata"]
            assert meta["labels"]["app.kubernetes.io/instance"] == "gpu-share", (kind, name)
            assert meta["labels"]["app.kubernetes.io/managed-by"] == "Helm"
            where = meta.get("namespace")
            assert (where is None) == (kind in everywhere), (kind, name)
            if where is None and kind != "Namespace":
                assert name.startswith(WIDE), "two Hubs of one cluster have one each"


# -- the broker --------------------------------------------------------------------------------


def test_the_broker_is_one_and_is_told_what_a_service_is_told(default: Objects) -> None:
    spec = default["Deployment", BROKER]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    told = environment(default)
    assert told == {
        "JUPYTERHUB_SERVICE_NAME": "gpu-share",
        "JUPYTERHUB_SERVICE_PREFIX": "/services/gpu-share/",
        "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8000",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_API_URL": f"http://hub.{HUB}:8081/hub/api",
        "POD_UID": {"fieldRef": {"fieldPath": "metadata.uid"}},
        "JUPYTERHUB_API_TOKEN": {
            "secretKeyRef": {"name": "hub", "key": "hub.services.gpu-share.apiToken"}
        },
    }
    stanzas = yaml.safe_load(STANZAS.read_text())
    (name,) = stanzas["hub"]["services"]
    assert name == told["JUPYTERHUB_SERVICE_NAME"]


def test_a_hub_elsewhere_is_found(full: Objects, home: Path) -> None:
    told = environment(full)
    assert told["JUPYTERHUB_SERVICE_PREFIX"] == "/hubs/services/gpu-share/"
    assert told["JUPYTERHUB_API_URL"] == f"http://hub.{HUB}:8081/hubs/hub/api"
    assert told["JUPYTERHUB_API_TOKEN"] == {"secretKeyRef": {"name": BROKER, "key": "token"}}
    assert full["Secret", BROKER]["stringData"] == {"token": "a" * 64}
    other = {"namespace": "hubs", "service": "shares", "existingSecret": "t"}
    told = environment(rendered(home, {"hub": other}))
    assert told["JUPYTERHUB_API_URL"] == "http://hub.hubs:8081/hub/api"
    key = {"name": "t", "key": "hub.services.shares.apiToken"}
    assert told["JUPYTERHUB_API_TOKEN"] == {"secretKeyRef": key}


def test_no_token_is_anywhere_but_in_the_secret(full: Objects) -> None:
    for key, each in full.items():
        assert ("a" * 64 in json.dumps(each)) == (key == ("Secret", BROKER)), key


def test_the_broker_needs_no_privilege_and_cannot_be_served_by_another_pod(
    default: Objects, full: Objects
) -> None:
    for objects in (default, full):
        spec = pod_of(objects)["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        own = container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        labels = pod_of(objects)["metadata"]["labels"]
        selector = objects["Deployment", BROKER]["spec"]["selector"]["matchLabels"]
        assert objects["Service", BROKER]["spec"]["selector"] == selector
        assert selector.items() <= labels.items()
        # Zero to JupyterHub's own pods go by this label; the broker is none of them.
        assert "component" not in labels
        assert "app" not in labels


def test_ports_agree(default: Objects) -> None:
    (container,) = pod_of(default)["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == 8000
    (served,) = default["Service", BROKER]["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (8000, port["name"])
    for probe, path in (("readinessProbe", "/healthz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
    (ingress,) = default["NetworkPolicy", BROKER]["spec"]["ingress"]
    assert [each["port"] for each in ingress["ports"]] == [8000]
    (first,) = default["NetworkPolicy", KERNELS]["spec"]["ingress"]
    (span,) = first["ports"]
    assert (span["port"], span["endPort"]) == (min(PORTS.values()), AGENT_PORT)
    stanzas = yaml.safe_load(STANZAS.read_text())
    to_broker, to_kernels = stanzas["singleuser"]["networkPolicy"]["egress"]
    assert to_broker["ports"] == ingress["ports"]
    assert to_kernels["ports"] == first["ports"]
    url = stanzas["hub"]["services"]["gpu-share"]["url"]
    assert url == f"http://{BROKER}:8000"
    told = stanzas["singleuser"]["extraEnv"]["JUPYTER_GPU_SHARE_BROKER"]
    assert told + "/" == url + environment(default)["JUPYTERHUB_SERVICE_PREFIX"]


def test_a_new_configuration_starts_the_broker_anew_and_nothing_else_does(home: Path) -> None:
    def mark(values: dict[str, Any]) -> str:
        annotations = pod_of(rendered(home, values))["metadata"]["annotations"]
        return str(annotations["checksum/configuration"])

    plain = mark({})
    assert mark({"kernels": {"quota": {"pods": "1"}}}) == plain
    assert mark({"config": {"Broker": {"patience": 1}}}) != plain
    assert mark({"extraConfig": "pass"}) != plain


# -- the configuration -------------------------------------------------------------------------


def test_the_broker_reads_what_the_values_say(full: Objects, tmp_path: Path) -> None:
    c = configured(full["ConfigMap", BROKER], tmp_path / "etc")
    given = FULL["config"]
    assert c.Broker.limits == given["Broker"]["limits"]
    assert read_queues(c.Broker.queues)
    assert c.IdlePolicy.demand_after is None
    assert c.IdlePolicy.in_place is True
    kubernetes = c.KubernetesEngine
    assert kubernetes.environment == given["KubernetesEngine"]["environment"]
    assert kubernetes.tolerations == given["KubernetesEngine"]["tolerations"]
    # What the administrator writes in Python comes last.
    assert (kubernetes.cpu, kubernetes.memory) == ("2", "4Gi")
    assert (kubernetes.namespace, kubernetes.service_account) == (KERNELS, "gpu-share-kernel")
    assert full["ServiceAccount", "gpu-share-kernel"]["metadata"]["namespace"] == KERNELS


def test_the_engine_takes_it(full: Objects, tmp_path: Path) -> None:
    from traitlets.config import Config

    from jupyter_gpu_share.broker.cluster.program import ClusterBroker
    from jupyter_gpu_share.broker.limits import Limits
    from jupyter_gpu_share.engines.kubernetes._settings import KubernetesSettings
    from jupyter_gpu_share.idle import IdlePolicy

    c = configured(full["ConfigMap", BROKER], tmp_path / "etc")
    names = set(KubernetesSettings.class_trait_names(config=True))
    assert set(c.KubernetesEngine) <= names
    assert set(c.Broker) <= set(ClusterBroker.class_trait_names(config=True))
    assert Limits(c.Broker.limits)
    policy = IdlePolicy(config=Config(c))
    assert (policy.warn_before, policy.demand_after) == (60, None)


# -- what it grants ----------------------------------------------------------------------------


def rules(each: dict[str, Any]) -> Any:
    return sorted(json.dumps(rule, sort_keys=True) for rule in each["rules"])


def test_rights_are_those_of_the_manifests_and_the_brokers_alone(
    default: Objects, full: Objects
) -> None:
    base, _ = shipped("base/role.yaml")
    assert rules(default["Role", BROKER]) == rules(base)
    admin, _ = shipped("components/admin-access/role.yaml")
    assert rules(full["Role", BROKER]) == sorted(rules(base) + rules(admin))
    for objects, overlays in (
        (default, ["cluster-read"]),
        (full, ["cluster-read", "cluster-read-pods"]),
    ):
        roles = {name: each for (kind, name), each in objects.items() if kind == "ClusterRole"}
        assert set(roles) == {f"{WIDE}-{name}" for name in overlays}
        for name in overlays:
            assert rules(roles[f"{WIDE}-{name}"]) == rules(shipped(f"overlays/{name}/role.yaml")[0])
        account = {"kind": "ServiceAccount", "name": BROKER, "namespace": HUB}
        bindings = [each for (kind, _), each in objects.items() if kind.endswith("RoleBinding")]
        assert len(bindings) == len(overlays) + 1
        for each in bindings:
            assert each["subjects"] == [account]
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in objects
        assert objects["RoleBinding", BROKER]["metadata"]["namespace"] == KERNELS
        assert objects["Role", BROKER]["metadata"]["namespace"] == KERNELS


def test_kernels_have_a_namespace_that_takes_no_privileges(default: Objects, full: Objects) -> None:
    (wanted,) = shipped("base/namespace.yaml")
    for objects in (default, full):
        labels = objects["Namespace", KERNELS]["metadata"]["labels"]
        assert wanted["metadata"]["labels"].items() <= labels.items()
    (more,) = (each for each in full if each[0] == "ResourceQuota")
    assert full[more]["spec"]["hard"] == FULL["kernels"]["quota"]
    assert "helm.sh/resource-policy" not in json.dumps(default["Namespace", KERNELS])
    kept = full["Namespace", KERNELS]["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep", "owner": "a"}
    label = "resource.kubernetes.io/admin-access"
    assert label in full["Namespace", KERNELS]["metadata"]["labels"]
    assert label not in default["Namespace", KERNELS]["metadata"]["labels"]


def test_kernels_reach_what_those_of_the_manifests_reach(default: Objects, full: Objects) -> None:
    kernels, leases = shipped("base/network-policies.yaml")
    own = default["NetworkPolicy", "gpu-share-kernels"]["spec"]
    *theirs, names = own["egress"]
    assert theirs == kernels["spec"]["egress"]
    assert names["ports"] == theirs[0]["ports"], "beside them nothing but names"
    assert own["podSelector"] == kernels["spec"]["podSelector"]
    assert [each["ports"] for each in own["ingress"]] == [
        each["ports"] for each in kernels["spec"]["ingress"]
    ]
    assert default["NetworkPolicy", "gpu-share-leases"]["spec"] == leases["spec"]
    more = full["NetworkPolicy", "gpu-share-kernels"]["spec"]["egress"]
    assert more == [*own["egress"], *FULL["kernels"]["networkPolicy"]["egress"]]


def test_pods_go_where_those_of_zero_to_jupyterhub_go(default: Objects, tmp_path: Path) -> None:
    """Taints of its guides keep a pool of nodes for users, or for the Hub."""
    kernels = configured(default["ConfigMap", BROKER], tmp_path / "etc").KubernetesEngine
    broker = pod_of(default)["spec"]
    for found, whose in ((kernels.tolerations, "user"), (broker["tolerations"], "core")):
        assert [each.pop("key") for each in found] == [
            "hub.jupyter.org/dedicated",
            "hub.jupyter.org_dedicated",
        ]
        assert found == [{"operator": "Equal", "value": whose, "effect": "NoSchedule"}] * 2


def test_policies_hold_the_broker_in_the_kernels_namespace(default: Objects) -> None:
    account = f"request.userInfo.username == 'system:serviceaccount:{HUB}:{BROKER}'"
    policies = [each for (kind, _), each in default.items() if kind == "ValidatingAdmissionPolicy"]
    names = {each["metadata"]["name"] for each in policies}
    assert names == {
        f"{WIDE}-{path.stem}"
        for path in (ETC / "kubernetes/policy").glob("*.yaml")
        if path.stem != "kustomization"
    }
    for each in policies:
        conditions = {one["name"]: one["expression"] for one in each["spec"]["matchConditions"]}
        assert conditions["the-broker"] == account
        assert "startsWith('system:serviceaccount" not in json.dumps(each)
        assert "Jupyter server" not in json.dumps(each)
        binding = default["ValidatingAdmissionPolicyBinding", each["metadata"]["name"]]["spec"]
        assert binding["policyName"] == each["metadata"]["name"]
        assert binding["validationActions"] == ["Deny"]
        labels = binding["matchResources"]["namespaceSelector"]["matchLabels"]
        assert labels == {"kubernetes.io/metadata.name": KERNELS}
    # What is said of pods is what the manifests say, but for gates.
    (theirs,) = (each for each in shipped("policy/pods.yaml") if "matchConstraints" in each["spec"])
    own = default["ValidatingAdmissionPolicy", f"{WIDE}-pods"]["spec"]
    assert own["variables"] == theirs["spec"]["variables"]
    expressions = [one["expression"] for one in own["validations"]]
    assert expressions[1:] == [one["expression"] for one in theirs["spec"]["validations"]][1:]
    assert expressions[0].startswith(theirs["spec"]["validations"][0]["expression"])


def test_the_release_cannot_share_its_namespace_with_kernels(home: Path) -> None:
    done = template(home, {"kernels": {"namespace": HUB}})
    assert done.returncode
    assert "kernels need another one" in done.stderr


# -- what is watched ---------------------------------------------------------------------------


def test_monitoring_is_what_etc_has(full: Objects, default: Objects) -> None:
    alerts = yaml.safe_load((ETC / "prometheus/jupyter-gpu-share.rules.yaml").read_text())
    (wanted,), (group,) = alerts["groups"], full["PrometheusRule", BROKER]["spec"]["groups"]

    # A machine's Prometheus has its address; a cluster's knows of no broker without a pod.
    away = next(rule for rule in wanted["rules"] if rule["alert"] == "GpuShareBrokerAway")
    absent = f'absent(up{{job="jupyter-gpu-share",instance="{HUB}/{BROKER}"}})'
    away["expr"] += f" or {absent}"

    def plain(rule: dict[str, Any]) -> dict[str, Any]:
        """All but what it advises."""
        summary = {"summary": rule["annotations"]["summary"]}
        return {**rule, "annotations": summary}

    assert [plain(rule) for rule in group["rules"]] == [
        plain(rule) for rule in wanted["rules"] if rule["alert"] != "GpuShareUnsharedUse"
    ]
    # Nobody has a shell where the broker is.
    assert not re.search("sudo|systemctl", json.dumps(group))
    assert f"kubectl logs deployment/{BROKER} -n {HUB}" in json.dumps(group)
    (text,) = full["ConfigMap", f"{BROKER}-dashboard"]["data"].values()
    assert json.loads(text) == json.loads((ETC / "grafana/jupyter-gpu-share.json").read_text())
    monitor = full["ServiceMonitor", BROKER]["spec"]
    (endpoint,) = monitor["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    assert endpoint["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "prometheus", "key": "token"},
    }
    # The alerts name their job, and have one broker before and after an upgrade.
    (relabelled,) = endpoint["relabelings"]
    assert relabelled == {"targetLabel": "instance", "replacement": f"{HUB}/{BROKER}"}
    assert monitor["jobLabel"] == "app.kubernetes.io/name"
    labels = full["Service", BROKER]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "jupyter-gpu-share"
    assert 'up{job="jupyter-gpu-share"}' in str(alerts)
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert (kind, BROKER) not in default


def served(objects: Objects, folder: Path) -> tuple[Any, dict[str, Any], set[str], set[int]]:
    """The broker's settings, its container, its volumes, and the ports of its Service."""
    (container,) = pod_of(objects)["spec"]["containers"]
    volumes = {each["name"] for each in pod_of(objects)["spec"]["volumes"]}
    ports = {each["port"] for each in objects["Service", BROKER]["spec"]["ports"]}
    return configured(objects["ConfigMap", BROKER], folder).Broker, container, volumes, ports


def test_metrics_have_a_port_and_a_token_where_they_are_wanted(
    home: Path, default: Objects, full: Objects, tmp_path: Path
) -> None:
    broker, container, volumes, ports = served(default, tmp_path / "default")
    assert "metrics_bind" not in broker and ports == {8000}
    assert [each["name"] for each in container["ports"]] == ["http"]

    broker, container, volumes, ports = served(full, tmp_path / "full")
    assert broker.metrics_bind == "0.0.0.0:9500" and ports == {8000, 9500}
    assert {"name": "metrics", "containerPort": 9500} in container["ports"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "metrics-token")
    assert broker.metrics_token_file == f"{mount['mountPath']}/token"
    (volume,) = (v for v in pod_of(full)["spec"]["volumes"] if v["name"] == "metrics-token")
    assert volume["secret"]["secretName"] == "prometheus"
    assert volume["secret"]["items"] == [{"key": "token", "path": "token"}]
    # What `read_token` takes: not open to everybody, and the group's by fsGroup.
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod_of(full)["spec"]["securityContext"]["fsGroup"]

    inside = {"networkPolicy": {"enabled": False}, "metrics": {"enabled": True}}
    broker, container, volumes, ports = served(rendered(home, inside), tmp_path / "inside")
    assert broker.metrics_bind and "metrics_token_file" not in broker and ports == {8000, 9500}
    assert "metrics-token" not in volumes


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"metrics": {"enabled": True}}, "networkPolicy.prometheusNamespace"),
        (
            {
                "metrics": {"serviceMonitor": {"enabled": True}},
                "networkPolicy": {"prometheusNamespace": {"a": "b"}},
                "config": {"Broker": {"metrics_by_user": True}},
            },
            "metrics.tokenSecret",
        ),
    ],
)
def test_metrics_that_nobody_would_get_or_everybody_are_refused(
    home: Path, values: dict[str, Any], told: str
) -> None:
    done = template(home, values)
    assert done.returncode and told in done.stderr


# -- what it tells -----------------------------------------------------------------------------


def notes(home: Path, values: dict[str, Any]) -> str:
    """What Helm prints after an installation."""
    path = home / "notes.json"
    path.write_text(json.dumps(values))
    words = ("install", "gpu-share", CHART, "--namespace", HUB, "--dry-run=client")
    done = helm(home, *words, "--values", path)
    assert not done.returncode, done.stderr
    return str(done.stdout.rpartition("NOTES:\n")[2])


def test_the_notes_say_what_the_hub_needs_and_what_is_missing(home: Path) -> None:
    told = notes(home, {})
    assert f"http://{BROKER}.{HUB}:8000/services/gpu-share" in told
    assert "access:services!service=gpu-share in the roles user AND server" in told
    assert f"{min(PORTS.values())} to {AGENT_PORT} of {KERNELS}" in told
    assert "names no image" in told
    other = notes(home, FULL)
    assert f"http://{BROKER}.{HUB}:8000/hubs/services/gpu-share" in other
    assert "names no image" not in other
    assert "a" * 64 not in other
