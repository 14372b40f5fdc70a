"""Who calls a broker, and what is theirs: by what the system tells, and nothing else."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_users import ANN, RunningBroker, user
from namespaces import own_namespace
from tornado.netutil import bind_unix_socket
from waiting import PATIENCE

from jupyter_gpu_share.broker import identity
from jupyter_gpu_share.broker.api import Desk, application
from jupyter_gpu_share.broker.client import BrokerClient, BrokerRefused
from jupyter_gpu_share.broker.connections import BoundedServer
from jupyter_gpu_share.broker.events import Events
from jupyter_gpu_share.broker.identity import Account, Accounts, NotProven, peer_of, uid_of
from jupyter_gpu_share.broker.store import Store
from jupyter_gpu_share.engines._processes import Holder, this_process


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "socket"))
        own.listen()
        yield own


def test_the_process_that_connected_is_who_calls(listening: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            peer = peer_of(accepted)
            assert (peer.uid, peer.gid, peer.process) == (os.getuid(), os.getgid(), this_process())


@pytest.mark.parametrize("newer", [True, False], ids=["pidfd", "older kernel"])
def test_a_number_that_another_process_has_by_now_is_not_who_called(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    """The process has ended, and its socket lives on in a process that it gave it to."""
    client = socket.socket(socket.AF_UNIX)
    child = os.fork()
    if not child:
        client.connect(listening.getsockname())
        os._exit(0)
    os.waitpid(child, 0)
    accepted, _ = listening.accept()
    with client, accepted:
        with pytest.raises(NotProven, match="The calling process has ended"):
            peer_of(accepted)
        # As if the number were used again.
        monkeypatch.setattr(Holder, "of", classmethod(lambda cls, pid: cls(pid, "77")))
        if not newer:
            monkeypatch.setattr(identity, "_SO_PEERPIDFD", 9999)
            monkeypatch.setattr(identity, "_owner", lambda pid: os.getuid() + 1)
        with pytest.raises(NotProven, match="The calling process has ended"):
            peer_of(accepted)
        assert uid_of(accepted) == os.getuid()


def test_a_kernel_in_a_container_is_found_by_its_number_there(broker: RunningBroker) -> None:
    """The broker sees all processes from outside, under other numbers."""
    with user(ANN, broker.socket, *own_namespace()) as inside:
        assert inside.pid < 10, "it counts for itself"
        inside.claim("a", "1/4")
        child = inside.ok("child")
        assert child < 20
        inside.ok("PATCH", "/v1/shares/a", {"kernel_pid": child})
        (row,) = inside.ok("GET", "/v1/shares")
        assert row["kernel_pid"] > child
        command = Path(f"/proc/{row['kernel_pid']}/cmdline").read_bytes()
        assert command.split(b"\0")[:2] == [b"/bin/sleep", b"99"]
        status, line = inside.ask("PATCH", "/v1/shares/a", {"kernel_pid": os.getpid()})
        assert (status, line) == (403, f"There is no process {os.getpid()} of yours.")


def test_accounts_are_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    groups = {4: "adm", 7: "gpu-admins"}
    asked: list[int] = []

    def look(uid: int) -> pwd.struct_passwd:
        asked.append(uid)
        if uid != 7001:
            raise KeyError(uid)
        return pwd.struct_passwd(("ann", "x", 7001, 4, "", "/", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwuid", look)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 7, 99])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((groups[gid], "x", gid, [])))
    accounts = Accounts("gpu-admins", clock=lambda: now[0])
    assert accounts.of(7001) == Account(7001, "ann", frozenset({"adm", "gpu-admins"}))
    assert accounts.of(7002) == Account(7002, "uid 7002", frozenset())
    assert accounts.is_administrator(7001)
    assert accounts.is_administrator(0)
    assert not accounts.is_administrator(7002)
    assert asked == [7001, 7002]
    assert not Accounts().is_administrator(7001), "without a group only root is"
    del groups[7]
    assert accounts.is_administrator(7001)
    now[0] = 61.0
    assert not accounts.is_administrator(7001), "who has left the group is none any more"


def test_who_had_a_name_has_it_while_the_directory_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits are by names and groups, and would not hold for a minute after each of its pauses."""
    now, ann, away = [0.0], pwd.struct_passwd(("ann", "x", 7001, 7, "", "/", "/bin/sh")), [False]

    def look(uid: int) -> pwd.struct_passwd:
        if away[0]:
            raise KeyError(uid)
        return ann

    monkeypatch.setattr(pwd, "getpwuid", look)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("staff", "x", gid, [])))
    accounts = Accounts("staff", clock=lambda: now[0])
    found = accounts.of(7001)
    assert accounts.is_administrator(7001)
    away[0], now[0] = True, 61.0
    assert accounts.of(7001) == found == Account(7001, "ann", frozenset({"staff"}))
    assert not accounts.is_administrator(7001), "who was removed is no administrator"
    away[0], now[0] = False, 122.0
    assert accounts.is_administrator(7001)


def test_members_of_the_administrators_group_see_all(common: Path) -> None:
    """By the system's directory; other groups of a process do not count."""
    daemon = pwd.getpwnam("daemon")
    name = grp.getgrgid(daemon.pw_gid).gr_name
    running = RunningBroker(common, f"c.Broker.administrators = {name!r}")
    running.start()
    try:
        with user(daemon.pw_uid, running.socket) as member, user(ANN, running.socket) as other:
            assert member.ok("GET", "/v1/admin/shares") == []
            assert member.ok("GET", "/v1/machine")["you"]["administrator"] is True
            assert other.ask("GET", "/v1/admin/shares") == (
                403,
                "Only an administrator of the broker may do that.",
            )
    finally:
        running.kill()


async def test_a_user_has_so_many_requests_under_way_and_no_more(tmp_path: Path) -> None:
    events = Events()
    store = Store(tmp_path / "state", events)
    await store.open()
    desk = Desk(store, events, Accounts(), under_way=Counter({os.getuid(): 31}))
    server = BoundedServer(application(desk))
    server.add_socket(bind_unix_socket(str(tmp_path / "socket")))
    client = BrokerClient(tmp_path / "socket")
    try:
        ask = asyncio.to_thread(client.ask, "GET", "/v1/shares")
        assert await asyncio.wait_for(ask, PATIENCE) == []
        assert desk.under_way[os.getuid()] == 31, "what is answered counts no more"
        desk.under_way[os.getuid()] = 32
        with pytest.raises(BrokerRefused, match="too many requests under way") as caught:
            await asyncio.to_thread(client.ask, "GET", "/v1/shares")
        assert caught.value.status == 429
        assert desk.under_way[os.getuid()] == 32
    finally:
        client.close()
        server.stop()
        await server.close_all_connections()
        await store.close()
