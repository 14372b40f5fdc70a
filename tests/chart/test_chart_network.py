"""Who reaches whom by the chart's NetworkPolicies together with those of Zero to JupyterHub.

Nothing enforces them here; they are reckoned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import BROKER, FULL, HELM_MARKS, HUB, KERNELS, STANZAS, Objects, rendered
from network_policy import Peer, allows

from jupyter_gpu_share.engines.kubernetes._pods import AGENT_PORT, PORTS

pytestmark = HELM_MARKS

PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
METADATA = "169.254.169.254/32"
SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}
ALL = sorted([*PORTS.values(), AGENT_PORT])


def labels(component: str) -> dict[str, str]:
    """Of Zero to JupyterHub's pods."""
    return {"app": "jupyterhub", "release": "hub", "component": component}


def rule(
    *ports: int, pods: dict[str, str] | None = None, cidrs: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """One way out."""
    to: list[dict[str, Any]] = [{"ipBlock": {"cidr": cidr, **more}} for cidr in cidrs]
    if pods is not None:
        to.append({"podSelector": {"matchLabels": pods}})
    found: dict[str, Any] = {"to": to}
    if ports:
        found["ports"] = [{"port": port} for port in ports]
    return found


def usual(private: bool, metadata: bool) -> list[dict[str, Any]]:
    """What ``egressAllowRules`` amount to, names aside."""
    found = [rule(cidrs=("0.0.0.0/0",), **{"except": [*PRIVATE, METADATA]})]
    found += [rule(cidrs=PRIVATE)] if private else []
    found += [rule(cidrs=(METADATA,))] if metadata else []
    names = {"namespaceSelector": {"matchLabels": SYSTEM}}
    ports = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    found.append({"to": [names, *rule(cidrs=(METADATA, *PRIVATE))["to"]], "ports": ports})
    return found


def policy(
    component: str, egress: list[dict[str, Any]], *ingress: tuple[int, str | None]
) -> dict[str, Any]:
    """One of Zero to JupyterHub's; labels ``hub.jupyter.org/network-access-*`` let pods in."""
    into = [
        {
            "ports": [{"port": port}],
            **(
                {
                    "from": [
                        {
                            "podSelector": {
                                "matchLabels": {f"hub.jupyter.org/network-access-{who}": "true"}
                            }
                        }
                    ]
                }
                if who
                else {}
            ),
        }
        for port, who in ingress
    ]
    return {
        "metadata": {"namespace": HUB, "name": component},
        "spec": {
            "podSelector": {"matchLabels": labels(component)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": into,
            "egress": egress,
        },
    }


def zero_to_jupyterhub(more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Its policies under its default values (chart of July 2026, for JupyterHub 5.5).

    Parameters
    ----------
    more: ``singleuser.networkPolicy.egress``.
    """
    hub, proxy, server = (labels(name) for name in ("hub", "proxy", "singleuser-server"))
    return [
        policy(
            "hub",
            [rule(8001, pods=proxy), rule(8888, pods=server), *usual(True, True)],
            (8081, "hub"),
        ),
        policy(
            "proxy",
            [rule(8081, pods=hub), rule(8888, pods=server), *usual(True, True)],
            (8000, None),
            (8001, "proxy-api"),
        ),
        policy(
            "singleuser-server",
            [rule(8081, pods=hub), rule(8000, pods=proxy), *usual(False, False), *more],
            (8888, "singleuser"),
        ),
    ]


@pytest.fixture(scope="module")
def own(home: Path) -> list[dict[str, Any]]:
    """The chart's policies."""
    return [each for (kind, _), each in rendered(home).items() if kind == "NetworkPolicy"]


@pytest.fixture(scope="module")
def policies(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Everything, with the stanza for users' servers."""
    stanzas = yaml.safe_load(STANZAS.read_text())
    return [*own, *zero_to_jupyterhub(stanzas["singleuser"]["networkPolicy"]["egress"])]


def pod_labels(found: Objects) -> dict[str, str]:
    labels: dict[str, str] = found["Deployment", BROKER]["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.fixture(scope="module")
def broker(home: Path) -> Peer:
    return Peer("10.1.0.5", pod_labels(rendered(home)), HUB, named(HUB))


def named(namespace: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": namespace}


def of_hub(component: str, number: int, **more: str) -> Peer:
    return Peer(f"10.1.0.{number}", {**labels(component), **more}, HUB, named(HUB))


def of_kernels(part: str, number: int) -> Peer:
    own = {"gpu-share.jupyter.org/part": part}
    return Peer(f"10.1.1.{number}", own, KERNELS, named(KERNELS))


ACCESS = {"hub.jupyter.org/network-access-hub": "true"}
THE_HUB, PROXY = of_hub("hub", 1), of_hub("proxy", 2)
ALICE = of_hub("singleuser-server", 3, **ACCESS)
KERNEL, OTHER, LEASE = of_kernels("kernel", 1), of_kernels("kernel", 2), of_kernels("lease", 3)
STRANGER = Peer("10.1.2.1", labels("singleuser-server"), "elsewhere", named("elsewhere"))
WEB = Peer("10.1.0.9", {"app": "web"}, HUB, named(HUB))
API_SERVER = Peer("10.96.0.1")
OUTSIDE = Peer("203.0.113.5")
#: Who tells names: pods, a cache of the node under its own address or under that of the pods'
#: service, and the resolvers of a cloud and of machines.
RESOLVERS = [
    Peer("10.1.5.1", {"k8s-app": "kube-dns"}, "kube-system", SYSTEM),
    *map(Peer, ("169.254.20.10", "169.254.25.10", "169.254.169.254", "10.96.0.10", "192.168.1.1")),
]


def test_users_servers_reach_the_broker_and_kernels(policies: Any, broker: Peer) -> None:
    assert allows(policies, ALICE, broker, 8000)
    assert all(allows(policies, ALICE, KERNEL, port) for port in ALL)
    assert not allows(policies, ALICE, KERNEL, ALL[0] - 1)
    assert not allows(policies, ALICE, KERNEL, ALL[-1] + 1)
    assert not allows(policies, ALICE, LEASE, ALL[0])
    assert not any(allows(policies, ALICE, broker, port) for port in (22, 8081, 443))


def test_without_the_stanza_they_do_not(own: Any, broker: Peer) -> None:
    policies = [*own, *zero_to_jupyterhub([])]
    assert not allows(policies, ALICE, broker, 8000)
    assert not any(allows(policies, ALICE, KERNEL, port) for port in ALL)
    # By the proxy they do reach it, which is no way for kernels.
    assert allows(policies, ALICE, PROXY, 8000)


def test_the_hub_and_its_proxy_need_no_stanza(policies: Any, broker: Peer) -> None:
    assert allows(policies, PROXY, broker, 8000)
    assert allows(policies, THE_HUB, broker, 8000)
    assert allows(policies, broker, THE_HUB, 8081)


def test_a_hub_without_ways_to_private_addresses_needs_one(own: Any, broker: Peer) -> None:
    text = "".join(STANZAS.read_text().rpartition("# hub:\n")[1:])
    stanza = yaml.safe_load(text.replace("# ", "").replace("#", ""))
    strict = zero_to_jupyterhub([])
    for each in strict[:2]:
        each["spec"]["egress"] = [
            one for one in each["spec"]["egress"] if one not in usual(True, False)[1:]
        ]
    assert not allows([*own, *strict], PROXY, broker, 8000)
    strict[0]["spec"]["egress"] += stanza["hub"]["networkPolicy"]["egress"]
    strict[1]["spec"]["egress"] += stanza["proxy"]["chp"]["networkPolicy"]["egress"]
    assert allows([*own, *strict], PROXY, broker, 8000)
    assert allows([*own, *strict], THE_HUB, broker, 8000)


def test_prometheus_reaches_the_metrics_and_nothing_else(home: Path, broker: Peer) -> None:
    own = rendered(home, FULL)
    policies = [each for (kind, _), each in own.items() if kind == "NetworkPolicy"]
    prometheus = Peer("10.1.4.1", {}, "monitoring", named("monitoring"))
    assert allows(policies, prometheus, broker, 9500)
    assert not allows(policies, prometheus, broker, 8000)
    assert not any(allows(policies, prometheus, KERNEL, port) for port in ALL)
    for other in (ALICE, THE_HUB, PROXY, KERNEL, WEB, STRANGER, OUTSIDE):
        assert not allows(policies, other, broker, 9500), other


def test_nobody_else_reaches_the_broker(policies: Any, broker: Peer) -> None:
    for other in (KERNEL, LEASE, STRANGER, WEB, OUTSIDE):
        assert not allows(policies, other, broker, 8000), other


def test_the_broker_reaches_the_hub_the_api_server_and_names_only(
    policies: Any, broker: Peer
) -> None:
    assert all(allows(policies, broker, API_SERVER, port) for port in (443, 6443))
    assert not allows(policies, broker, API_SERVER, 80)
    # Traffic of kernels never goes through it.
    assert not any(allows(policies, broker, KERNEL, port) for port in ALL)
    assert not allows(policies, broker, PROXY, 8000)
    assert not allows(policies, broker, Peer("169.254.169.254"), 443)
    assert not allows(policies, broker, OUTSIDE, 80)


def test_kernels_are_apart(policies: Any) -> None:
    for source in (OTHER, LEASE, STRANGER, WEB, THE_HUB, PROXY, OUTSIDE):
        assert not any(allows(policies, source, KERNEL, port) for port in ALL), source
    for target in (THE_HUB, PROXY, ALICE, OTHER, API_SERVER, Peer("169.254.169.254")):
        for port in (443, 6443, 8000, 8081, 8888, ALL[0]):
            assert not allows(policies, KERNEL, target, port), target
    assert allows(policies, KERNEL, OUTSIDE, 443)


@pytest.mark.parametrize("resolver", RESOLVERS, ids=lambda each: each.ip)
def test_names_are_had_wherever_users_servers_have_them(
    policies: Any, broker: Peer, resolver: Peer
) -> None:
    for source in (broker, KERNEL):
        assert all(allows(policies, source, resolver, 53, kind) for kind in ("UDP", "TCP"))
        assert not any(allows(policies, source, resolver, port) for port in (52, 54, 80))
    assert not any(allows(policies, KERNEL, resolver, port) for port in (443, 6443))
    assert not allows(policies, LEASE, resolver, 53, "UDP")
    by_hub = zero_to_jupyterhub([])
    if resolver.ip != "169.254.25.10":  # the cache of Kubespray, which it knows nothing of
        assert allows(by_hub, ALICE, resolver, 53, "UDP")


def test_an_administrator_says_who_tells_names(home: Path) -> None:
    for resolvers, allowed in (([], False), (["192.168.1.1/32"], True)):
        found = rendered(home, {"networkPolicy": {"resolvers": resolvers}})
        policies = [each for (kind, _), each in found.items() if kind == "NetworkPolicy"]
        pod = Peer("10.1.0.5", pod_labels(found), HUB, named(HUB))
        for source in (pod, KERNEL):
            assert allows(policies, source, RESOLVERS[0], 53, "UDP")
            assert allows(policies, source, RESOLVERS[-1], 53, "UDP") is allowed
            assert not allows(policies, source, RESOLVERS[-2], 53, "UDP")


def test_a_hub_of_another_namespace(home: Path) -> None:
    values = {"hub": {"namespace": "hubs"}}
    apart = [each for (kind, _), each in rendered(home, values).items() if kind == "NetworkPolicy"]
    there = Peer("10.1.3.1", labels("singleuser-server"), "hubs", named("hubs"))
    assert all(allows(apart, there, KERNEL, port) for port in ALL)
    assert not any(allows(apart, ALICE, KERNEL, port) for port in ALL)
