"""What another user may try against a broker and the shares of others. All of it is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from broker_users import ANN, BOB, RunningBroker, User
from waiting import eventually

from jupyter_gpu_share.broker.api import MAX_BODY
from jupyter_gpu_share.broker.client import BrokerClient

_FOREIGN = [
    ("DELETE", "/v1/shares/a"),
    ("PATCH", "/v1/shares/a", {"info": {"path": "mine.ipynb"}}),
    ("POST", "/v1/shares/a/change", {"size": "1/8"}),
    ("DELETE", f"/v1/shares/{ANN}%2Fa"),
    ("DELETE", f"/v1/shares/..%2F{ANN}%2Fa"),
    ("GET", "/v1/admin/shares"),
    ("DELETE", f"/v1/admin/shares/{ANN}/a"),
]


@pytest.mark.parametrize("attack", _FOREIGN, ids=lambda attack: f"{attack[0]} {attack[1]}")
def test_no_request_reaches_the_share_of_another_user(
    broker: RunningBroker, ann: User, bob: User, attack: tuple[Any, ...]
) -> None:
    ann.claim("a", "3/4", info={"path": "hers.ipynb"})
    before = ann.ok("GET", "/v1/shares")
    status, answer = bob.ask(*attack)
    assert status in (400, 403, 404) or answer == {"released": False}
    assert ann.ok("GET", "/v1/shares") == before


def test_the_same_id_of_two_users_is_two_kernels(ann: User, bob: User) -> None:
    assert ann.claim("a", "3/4")["state"] == "held"
    assert bob.claim("a", "1/4")["state"] == "held"
    assert bob.ok("DELETE", "/v1/shares/a") == {"released": True}
    assert ann.kernels() == {"a": "held"}


@pytest.mark.parametrize("name", ["user", "uid", "pid", "holder", "groups", "server"])
def test_a_body_that_says_who_sends_it_is_refused(ann: User, bob: User, name: str) -> None:
    for body in ({"size": "1/4", name: ANN}, {"size": "1/4", "info": {name: str(ANN)}}):
        status, line = bob.ask("PUT", "/v1/shares/b", body)
        assert status == 400, line
    assert bob.kernels() == {}
    assert ann.kernels() == {}


def test_what_users_see_of_others_names_nobody(ann: User, bob: User) -> None:
    ann.claim("a-of-ann", "3/4", info={"path": "secret.ipynb"})
    ann.claim("b-of-ann", "1", info={"path": "secret.ipynb"})
    for address in ("/v1/shares", "/v1/queue", "/v1/machine"):
        text = repr(bob.ok("GET", address))
        for word in ("of-ann", "secret", str(ANN)):
            assert word not in text, address
    assert bob.ok("GET", "/v1/queue")["waiting"][0]["size"] == "1"


def test_the_record_is_the_brokers_alone(broker: RunningBroker, ann: User, bob: User) -> None:
    ann.claim("a", "3/4")
    path = broker.ledger
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert bob.ask("read", str(path)) == (1, "PermissionError")


def test_a_process_of_another_user_is_nobodys_kernel(ann: User, bob: User) -> None:
    bob.claim("b", "1/4")
    for pid in (ann.ok("child"), 1, os.getpid()):
        status, line = bob.ask("PATCH", "/v1/shares/b", {"kernel_pid": pid})
        assert (status, line) == (403, f"There is no process {pid} of yours.")
    assert bob.ok("GET", "/v1/shares")[0]["kernel_pid"] is None
    own = bob.ok("child")
    bob.ok("PATCH", "/v1/shares/b", {"kernel_pid": own})
    assert bob.ok("GET", "/v1/shares")[0]["kernel_pid"] == own


def test_a_claim_of_another_user_cannot_be_had_by_its_token(ann: User, bob: User) -> None:
    token = ann.claim("a", "1/4")["token"]
    status, _ = bob.ask("PUT", "/v1/shares/b", {"size": "1/4", "token": token})
    assert status == 503
    assert bob.kernels() == {}
    assert ann.ok("GET", "/v1/shares")[0]["token"] == token


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b"[" * 50_000,
        b'{"size": 1}',
        b'{"size": "1/0"}',
        b'{"size": "-1"}',
        b'{"size": "1/4", "only": [1]}',
        b'{"size": "1/4", "token": "x"}',
        b'{"size": "1/4", "info": {"path": 7}}',
        b'{"size": "1/4", "info": {"other": "x"}}',
        b'{"size": "1/4", "info": {"isolation": "x"}}',
    ],
    ids=lambda body: body[:40],
)
def test_what_makes_no_sense_is_refused_in_a_line(broker: RunningBroker, body: bytes) -> None:
    status, answer = _raw(broker.socket, _request("PUT", "/v1/shares/x", body))
    assert status == 400, answer
    assert b"Traceback" not in answer
    assert b"errno" not in answer
    assert "Traceback" not in broker.log.read_text()


def test_a_huge_body_is_not_read(broker: RunningBroker) -> None:
    head = _request("PUT", "/v1/shares/x", b"", length=10 * MAX_BODY)
    status, _ = _raw(broker.socket, head + b"x" * (2 * MAX_BODY))
    assert status in (0, 400, 413)
    chunked = (
        b"PUT /v1/shares/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n" % MAX_BODY + b"x" * MAX_BODY + b"\r\n") * 2
    )
    status, _ = _raw(broker.socket, chunked)
    assert status in (0, 400, 413)
    assert "Traceback" not in broker.log.read_text()


_CROWD = """
import os, socket, sys
os.setgroups([]); user = int(sys.argv[2])
os.setresgid(user, user, user); os.setresuid(user, user, user)
held = []
for _ in range(1000):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    one.sendall(b"GET /v1/machine HTTP/1.1\\r\\nHost: ")  # and never the rest
    held.append(one)
print("there", flush=True)
sys.stdin.read()
"""


async def test_a_thousand_slow_connections_of_one_user_keep_nobody_out(
    broker: RunningBroker, ann: User
) -> None:
    assert broker.process is not None
    descriptors = Path(f"/proc/{broker.process.pid}/fd")
    command = [sys.executable, "-c", _CROWD, str(broker.socket), str(BOB)]
    with ExitStack() as stack:
        crowd = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert crowd.stdout is not None
        assert crowd.stdin is not None
        crowd.stdout.readline()
        crowd.poll()
        assert ann.claim("a", "1/4")["state"] == "held"
        await eventually(
            lambda: len(list(descriptors.iterdir())) < 400, "those beyond the bound are closed"
        )
        crowd.stdin.close()
    await eventually(lambda: len(list(descriptors.iterdir())) < 100, "and the others with them")


def test_no_user_has_more_claims_than_the_bound(common: Path) -> None:
    from broker_users import user

    running = RunningBroker(common, "c.Broker.claims_per_user = 3")
    running.start()
    try:
        with user(ANN, running.socket) as ann, user(BOB, running.socket) as bob:
            for name in "abc":
                ann.claim(name, "1/8")
            status, line = ann.ask("PUT", "/v1/shares/d", {"size": "1/8"})
            assert status == 409
            assert "You have 3 kernels that hold or wait for a share" in line
            assert ann.claim("a", "1/4")["state"] == "held", "one that is there may change"
            assert bob.claim("d", "1/8")["state"] == "held"
    finally:
        running.kill()


def test_root_sees_all_and_ends_a_kernel(broker: RunningBroker, ann: User, bob: User) -> None:
    ann.claim("a", "1")
    child = ann.ok("child")
    ann.ok("PATCH", "/v1/shares/a", {"kernel_pid": child})
    assert bob.claim("b", "1")["state"] == "waiting"
    root = BrokerClient(broker.socket)
    rows = root.ask("GET", "/v1/admin/shares")
    assert [(row["info"]["uid"], row["state"]) for row in rows] == [(ANN, "held"), (BOB, "waiting")]
    assert "token" not in rows[0]
    assert root.ask("DELETE", f"/v1/admin/shares/{ANN}/a") == {"ended": True}
    root.close()
    assert ann.kernels() == {}
    assert bob.kernels() == {"b": "held"}
    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "Z", "its process is killed"


def _request(method: str, path: str, body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body


def _raw(path: Path, data: bytes) -> tuple[int, bytes]:
    """Status and answer; status 0: the connection was closed without one."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(20)
        one.connect(str(path))
        try:
            one.sendall(data)
            answer = one.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return 0, b""
    return (int(answer.split()[1]), answer) if answer else (0, b"")
