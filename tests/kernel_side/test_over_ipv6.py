"""A pod that has an address of IPv6 only: what listens on IPv4 is reached all the same."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import ARGV, KEY, Pod, free_ports
from gpu_share_kernel import over_ipv6
from jupyter_client.session import Session
from waiting import PATIENCE

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.relay._sockets import close, connect_backs


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not has_ipv6(), reason="this machine has no loopback of IPv6"),
    pytest.mark.timeout(PATIENCE),
]


@pytest.fixture
def served() -> Iterator[int]:
    """A port of which something says on IPv4 whatever it hears, and which is forwarded."""
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as listener:

        def echo(peer: socket.socket) -> None:
            with peer:
                while piece := peer.recv(2**16):
                    peer.sendall(piece)

        def accept() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(peer,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        (forward,) = over_ipv6.serve([port])
        with closing(forward):
            yield port
        listener.shutdown(socket.SHUT_RDWR)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("::1", port), timeout=PATIENCE)


def heard(peer: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length and (piece := peer.recv(2**20)):
        found += piece
    return found


def test_what_is_said_over_ipv6_comes_through_both_ways(served: int) -> None:
    said = os.urandom(8 * 2**20)
    with connect(served) as peer, connect(served) as other:
        writer = threading.Thread(target=peer.sendall, args=(said,))
        writer.start()
        assert heard(peer, len(said)) == said
        writer.join()
        other.sendall(b"beside")
        assert heard(other, 6) == b"beside"


def test_an_end_is_told_to_the_other_side(served: int) -> None:
    with connect(served) as peer:
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""


def test_where_nobody_listens_the_peer_is_sent_away() -> None:
    (port,) = free_ports(1)
    (forward,) = over_ipv6.serve([port])
    with closing(forward), connect(port) as peer:
        assert peer.recv(1) == b""


def test_a_port_that_is_taken_costs_no_other(served: int) -> None:
    (free,) = free_ports(1)
    found = over_ipv6.serve([served, free])
    assert [one.getsockname()[1] for one in found] == [free]
    found[0].close()


def test_more_connections_than_a_server_has_are_sent_away(
    served: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(over_ipv6, "_MOST", 1)
    with socket.create_server(("127.0.0.1", port)) as listener:
        (forward,) = over_ipv6.serve([port])
        with closing(forward), connect(port) as first:
            inside, _ = listener.accept()
            with inside, connect(port) as second:
                assert second.recv(1) == b""
                inside.sendall(b"still here")
                assert heard(first, 10) == b"still here"


@pytest.mark.slow
async def test_an_agent_and_its_kernel_are_reached_over_ipv6(pod: Pod) -> None:
    """As in a pod, they listen on every address of IPv4, and on no other."""
    mount = pod.mount

    def everywhere(*args: Any, **kwargs: Any) -> Path:
        folder = mount(*args, **kwargs)
        for name in ("agent.json", "connection.json"):
            settings = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**settings, "ip": "0.0.0.0"}))
        return folder

    pod.mount = everywhere  # type: ignore[method-assign]
    pod.boot()
    link = pod.link(ip="::1")
    state = await link.start("r1", ARGV, {}, None)
    assert state.pid is not None
    backs = connect_backs(Connection(**{**vars(pod.connection), "ip": "::1"}))
    try:
        Session(key=KEY).send(backs["shell"], "kernel_info_request")
        assert backs["shell"].poll(PATIENCE * 1000)
        assert b"kernel_info_reply" in b"".join(backs["shell"].recv_multipart())
    finally:
        close(backs)
