"""Where a pod is reached: IPv4, IPv6, or both."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.kubernetes._engine import _adoptable
from jupyter_gpu_share.engines.kubernetes._names import PART, SERVER
from jupyter_gpu_share.engines.kubernetes._pods import address_of


def ips(*known: str) -> dict[str, Any]:
    return {"podIP": known[0], "podIPs": [{"ip": ip} for ip in known]}


@pytest.mark.parametrize(
    ("status", "address"),
    [
        ({}, ""),
        ({"podIP": "10.0.0.7"}, "10.0.0.7"),
        (ips("10.0.0.7"), "10.0.0.7"),
        (ips("fd00::7"), "fd00::7"),
        (ips("10.0.0.7", "fd00::7"), "10.0.0.7"),
        (ips("fd00::7", "10.0.0.7"), "10.0.0.7"),
    ],
)
def test_ipv4_is_taken_where_there_is_one(status: dict[str, Any], address: str) -> None:
    assert address_of({"status": status}) == address
    labels = {PART: "kernel", SERVER: "alice"}
    pod = {"metadata": {"labels": labels}, "status": {"phase": "Running", **status}}
    assert _adoptable(pod, "alice") is bool(address)


@pytest.mark.parametrize(
    ("transport", "ip", "url"),
    [
        ("tcp", "10.0.0.7", "tcp://10.0.0.7:52001"),
        ("tcp", "fd00::7", "tcp://[fd00::7]:52001"),
        ("ipc", "/tmp/a:b", "ipc:///tmp/a:b-52001"),
    ],
)
def test_an_address_of_ipv6_stands_in_brackets(transport: Any, ip: str, url: str) -> None:
    connection = Connection(transport=transport, ip=ip, ports={"shell": 52001}, key=b"k")
    assert connection.url("shell") == url
    assert connection.is_ipv6 is ("[" in url)
