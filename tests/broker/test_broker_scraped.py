"""Metrics of a running broker: for administrators on its socket, for Prometheus on a port."""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from broker_users import ANN, RunningBroker, User, user
from prometheus_client.parser import text_string_to_metric_families
from servers import until
from waiting import PATIENCE

from jupyter_gpu_share.broker.client import _Connection

NAME = "jupyter_gpu_share_broker_held_gpu_seconds_total"
Start = Callable[..., RunningBroker]


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def start(common: Path) -> Iterator[Start]:
    """Starts a broker with these settings."""
    with ExitStack() as stack:

        def run(*lines: str) -> RunningBroker:
            running = RunningBroker(common, *lines)
            stack.callback(running.kill)
            running.start()
            return running

        yield run


def get(
    connection: http.client.HTTPConnection, path: str = "/metrics", token: str = ""
) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def tcp(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def amounts(text: str) -> dict[str, float]:
    """By name, the sum over all labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_administrators_have_them_on_the_socket(broker: RunningBroker, ann: User) -> None:
    ann.claim("a", "1/4")
    status, text = get(_Connection(broker.socket, PATIENCE), "/v1/metrics")
    assert status == 200
    found = amounts(text)
    assert found["jupyter_gpu_share_broker_gpu_memory_held_bytes"] == 20 * 2**30
    assert found["jupyter_gpu_share_broker_kernels"] == 1
    assert ann.ask("GET", "/v1/metrics")[0] == 403


def test_prometheus_has_them_on_a_port(start: Start, port: int) -> None:
    running = start(f"c.Broker.metrics_port = {port}")
    with user(ANN, running.socket) as ann:
        ann.claim("a", "1/4")
        until(lambda: amounts(get(tcp(port))[1])[NAME] > 0, "it is counted")
        assert str(ANN) not in get(tcp(port))[1]
        assert get(tcp(port), "/v1/shares")[0] == 404, "nothing else is there"


def test_users_are_named_to_who_has_the_token(start: Start, port: int, common: Path) -> None:
    token = common / "token"
    token.touch(0o600)
    token.write_text("a-secret\n")
    running = start(
        f"c.Broker.metrics_port = {port}",
        "c.Broker.metrics_by_user = True",
        f"c.Broker.metrics_token_file = {str(token)!r}",
    )
    with user(ANN, running.socket) as ann:
        ann.claim("a", "1/4")
        for wrong in ("", "a-secre", "a-secret2"):
            status, text = get(tcp(port), token=wrong)
            assert status == 401
            assert "jupyter_gpu_share_broker" not in text
        until(lambda: f'user="uid {ANN}"' in get(tcp(port), token="a-secret")[1], "it is told")


def test_users_are_not_named_on_a_port_that_asks_for_nothing(common: Path, port: int) -> None:
    refused = RunningBroker(
        common, f"c.Broker.metrics_port = {port}", "c.Broker.metrics_by_user = True"
    )
    done = subprocess.run(
        refused.command, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert "name a c.Broker.metrics_token_file" in done.stderr
    assert not refused.socket.exists()


def test_a_port_that_is_taken_is_named(common: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = RunningBroker(common, f"c.Broker.metrics_port = {port}")
        done = subprocess.run(
            refused.command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1
    assert f"cannot use port {port} of 127.0.0.1: Address already in use" in done.stderr


def test_who_takes_all_connections_of_the_port_keeps_no_server_out(start: Start, port: int) -> None:
    running = start(f"c.Broker.metrics_port = {port}")
    with ExitStack() as stack:
        opened = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(40)]
        for each in opened:
            stack.enter_context(each)
        ended = [each for each in opened[16:] if each.recv(1) == b""]
        assert len(ended) == 24, "those beyond the bound are closed"
        with user(ANN, running.socket) as ann:
            assert ann.claim("a", "1/4")["state"] == "held"

    def answers() -> bool:
        with suppress(OSError, http.client.HTTPException):
            return get(tcp(port))[0] == 200
        return False

    until(answers, "Prometheus gets in again")
