"""What NetworkPolicies allow, reckoned as their reference says. A fake of a network plugin.

No plugin that enforces them can be had on the test cluster, whose API server only checks their
form: that a packet is stopped cannot be shown there, that the rules say so can.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Peer", "allows"]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or an address outside of the cluster.

    Attributes
    ----------
    labels: of the pod; None for what is no pod.
    """

    ip: str
    labels: Mapping[str, str] | None = None
    namespace: str = ""
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def allows(
    policies: Sequence[Mapping[str, Any]],
    source: Peer,
    target: Peer,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether both ends' policies let a connection through."""
    return all(
        _one_end(policies, kind, end, other, port, protocol)
        for kind, end, other in (("Egress", source, target), ("Ingress", target, source))
    )


def _one_end(
    policies: Sequence[Mapping[str, Any]],
    kind: str,
    end: Peer,
    other: Peer,
    port: int,
    protocol: str,
) -> bool:
    mine = [
        policy
        for policy in policies
        if end.labels is not None
        and policy["metadata"]["namespace"] == end.namespace
        and kind in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], end.labels)
    ]
    # Who is selected by none is open; policies add up.
    return not mine or any(
        _rule(rule, kind, policy["metadata"]["namespace"], other, port, protocol)
        for policy in mine
        for rule in policy["spec"].get(kind.lower()) or []
    )


def _rule(
    rule: Mapping[str, Any], kind: str, home: str, other: Peer, port: int, protocol: str
) -> bool:
    peers = rule.get("from" if kind == "Ingress" else "to") or []
    ports = rule.get("ports") or []
    return (not peers or any(_peer(peer, home, other) for peer in peers)) and (
        not ports or any(_port(entry, port, protocol) for entry in ports)
    )


def _peer(peer: Mapping[str, Any], home: str, other: Peer) -> bool:
    if block := peer.get("ipBlock"):
        address = ipaddress.ip_address(other.ip)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(part) for part in block.get("except") or []
        )
    if other.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != home:
        return False
    return _selects(peer.get("podSelector") or {}, other.labels)


def _port(entry: Mapping[str, Any], port: int, protocol: str) -> bool:
    if entry.get("protocol", "TCP") != protocol:
        return False
    first = entry.get("port")
    return first is None or first <= port <= entry.get("endPort", first)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert not selector.get("matchExpressions"), "not known to this fake"
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    )
