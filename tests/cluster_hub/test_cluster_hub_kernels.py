"""Kernels of a Hub's users side by side in a cluster, and what one of them tries on another."""

from __future__ import annotations

import json
import time
from typing import Any

from broker_attacks import ASK, KERNEL_CALLS
from cluster.fixtures import CLUSTER_MARKS
from hub_of_cluster import HubOfCluster
from servers import Server, until

pytestmark = CLUSTER_MARKS

#: Seconds after which neither the share nor the token of a server that was stopped is of use.
SOON = 30.0


def rows(hub: HubOfCluster, server: Server) -> list[dict[str, Any]]:
    """What the broker tells a server of its kernels that live, asked in its terminal.

    Those of the last test may have ended without their server, which is told to the next one.
    """
    found = hub.terminal(server).tell(f"{ASK}\nprint(json.dumps(ask('GET', '/v1/shares')))")
    assert found[0] == 200, found
    told = found[1]
    listed: list[dict[str, Any]] = told["shares"] if isinstance(told, dict) else told
    return [row for row in listed if row["state"] not in ("ended", "failed")]


def pods_of(hub: HubOfCluster, user: str) -> dict[str, str]:
    """The pods of a user's kernels that nobody has told to end: ids of the kernels, by uid."""
    return {
        pod["metadata"]["uid"]: pod["metadata"]["annotations"]["gpu-share.jupyter.org/kernel-id"]
        for pod in hub.kernel_pods(user)
        if not pod["metadata"].get("deletionTimestamp")
    }


def done(tried: list[list[Any]]) -> list[list[Any]]:
    """Those of the attempts (method, path, status, answer) that were not refused.

    Who deletes what is none of theirs is told that it is gone: of theirs there is nothing.
    """
    return [
        each
        for each in tried
        if each[2] not in (400, 403, 404, 409)
        and (each[0], each[2:]) != ("DELETE", [200, {"gone": True}])
    ]


def test_two_users_have_kernels_side_by_side(hub: HubOfCluster) -> None:
    servers = {user: hub.server(user) for user in ("ann", "bob")}
    kernels = {user: server.start_kernel("1/4") for user, server in servers.items()}
    code = "import os, json; print(os.getuid(), [n for n in os.environ if 'HUB' in n])"
    for user, server in servers.items():
        assert server.run_cell(kernels[user], code) == "1000 []"
        server.wait_for(kernels[user], "active")
        listed = server.ok("gpu-share/allocations")
        assert [each["kernel_id"] for each in listed] == [kernels[user]]
    pods = {
        pod["metadata"]["annotations"]["hub.jupyter.org/username"]: pod for pod in hub.objects()
    }
    assert set(pods) == {"ann", "bob"}
    names = set()
    for pod in hub.objects():
        meta, spec = pod["metadata"], pod["spec"]
        notes = meta["annotations"]
        assert notes["hub.jupyter.org/servername"] == ""
        names.add(meta["labels"]["gpu-share.jupyter.org/server"])
        assert spec["automountServiceAccountToken"] is False
        assert "JUPYTERHUB" not in json.dumps(spec)
    assert len(names) == 2 and all(name.startswith("hub-") for name in names)
    for claim in hub.objects("claims"):
        assert claim["metadata"]["annotations"]["hub.jupyter.org/username"] in servers
    # The namespace takes no other pods, whoever makes them.
    privileged = {"name": "x", "image": "x", "securityContext": {"privileged": True}}
    body = {"metadata": {"name": "x"}, "spec": {"containers": [privileged]}}
    path = f"/api/v1/namespaces/{hub.kernels}/pods?dryRun=All"
    status, told = hub.cluster.api.raw("POST", path, body)
    assert status == 403 and b"restricted" in told
    # What users' programs see is theirs alone.
    for user, server in servers.items():
        assert [row["kernel_id"] for row in rows(hub, server)] == [kernels[user]]
    for user, server in servers.items():
        server.ok(f"api/kernels/{kernels[user]}", "DELETE")
    until(lambda: not hub.left(), f"nothing is left: {hub.left()}")


def test_another_users_terminal_gets_nothing(hub: HubOfCluster) -> None:
    """Everything that the API can do, asked for somebody else's kernel, with all that one may know.

    Its id, its attempt and the process that has it are no secrets.
    """
    ann, bob = hub.server("ann"), hub.server("bob")
    kernel, theirs = ann.start_kernel("1/4"), bob.start_kernel("1/4")
    assert ann.run_cell(kernel, "x = 42; print(x)") == "42"
    assert bob.run_cell(theirs, "y = 1; print(y)") == "1"
    (row,) = rows(hub, ann)
    before = pods_of(hub, "ann")
    known = {
        "kernel": kernel,
        "attempt": row["attempt"],
        "instance": row["instance"],
        "user": "ann",
        "address": row["address"],
    }
    given = "\n".join(f"{name} = {value!r}" for name, value in known.items())

    # Of one kernel: as the process that has it, as one of bob's own, and with forged names.
    code = (
        "found = []\n"
        "for headers in (forged, {'Gpu-Share-Instance': 'b' * 32}):\n"
        "    for method, path, body in calls:\n"
        "        more = {'user': user, 'server': ''}\n"
        "        for sent in (body, body and {**body, **more}):\n"
        "            found.append([method, path, *ask(method, path, sent, headers)])\n"
        "print(json.dumps(found))"
    )
    tried = hub.terminal(bob).tell(f"{ASK}\n{given}\n{KERNEL_CALLS}\n{code}")
    assert not done(tried)
    assert len(tried) == 56
    assert all("curve" not in json.dumps(each[3]) for each in tried)

    # A start under ann's id, attempt and process is one of bob's own, and hers is not its.
    code = (
        "made = ask('PUT', share, {**start, 'attempt': attempt}, forged)\n"
        "ended = ask('DELETE', share + '?attempt=' + attempt, headers=forged)\n"
        "print(json.dumps([made, ended]))"
    )
    made, ended = hub.terminal(bob).tell(f"{ASK}\n{given}\n{KERNEL_CALLS}\n{code}")
    assert made[0] == 201 and made[1]["name"] != row["name"], made
    assert ended[0] in (200, 202) and pods_of(hub, "ann") == before, ended

    # The stream of events, as anybody's, from any number on.
    code = (
        "import socket, urllib.parse\n"
        "at = urllib.parse.urlsplit(broker)\n"
        "text = ''\n"
        "for number in ('', '0', '1', '../ann', '9' * 30):\n"
        "    with socket.create_connection((at.hostname, at.port), timeout=10) as stream:\n"
        "        lines = ['GET ' + at.path + '/v1/events?user=ann HTTP/1.1', 'Host: x',\n"
        "            'Authorization: token ' + own, 'Last-Event-ID: ' + number,\n"
        "            *(n + ': ' + v for n, v in forged.items())]\n"
        "        stream.sendall('\\r\\n'.join([*lines, '', '']).encode())\n"
        "        stream.settimeout(2)\n"
        "        try:\n"
        "            while data := stream.recv(65536):\n"
        "                text += data.decode()\n"
        "        except TimeoutError:\n"
        "            pass\n"
        "print(json.dumps(text))"
    )
    heard = hub.terminal(bob).tell(f"{ASK}\n{given}\n{KERNEL_CALLS}\n{code}")
    assert "HTTP/1.1 200" in heard and kernel not in heard, heard

    # Of everybody: what is told, who ends, what administrators may.
    code = (
        "everybody = [\n"
        "    ('GET', '/v1/admin/shares', None), ('GET', '/v1/admin/usage', None),\n"
        "    ('DELETE', '/v1/admin/shares/ann//' + kernel, None),\n"
        "    ('POST', '/v1/admin/shares/ann//' + kernel + '/release', {}),\n"
        "    ('PUT', '/v1/admin/pause', {'paused': True}),\n"
        "]\n"
        "found = [[m, p, *ask(m, p, b, forged)] for m, p, b in everybody]\n"
        "shares = ask('GET', '/v1/shares?user=ann', headers=forged)\n"
        "details = ask('GET', '/v1/details?user=ann', headers=forged)\n"
        "usage = ask('GET', '/v1/usage?user=ann', headers=forged)\n"
        "nobody = [ask('GET', '/v1/shares', token=t)[0] for t in ('', 'x' * 40, own[:-1] + '-')]\n"
        "hub = os.environ['JUPYTERHUB_API_URL']\n"
        "others = [ask(m, p, b, base=hub)[0] for m, p, b in (\n"
        "    ('GET', '/users/ann', None), ('POST', '/users/ann/tokens', {}),\n"
        "    ('DELETE', '/users/ann/server', None), ('GET', '/services', None),\n"
        ")]\n"
        "idle = ask('PUT', '/v1/idle', {'kernels': {}}, forged)\n"
        "ended = ask('DELETE', '/v1/servers/self', headers=forged)\n"
        "print(json.dumps([found, [shares, details, usage], nobody, others, idle, ended]))"
    )
    found, told, nobody, others, idle, ended = hub.terminal(bob).tell(
        f"{ASK}\n{given}\n{KERNEL_CALLS}\n{code}"
    )
    # That there is such a route is no secret; what it says is.
    assert {each[2] for each in found} <= {403, 404}, found
    for status, body in told:
        assert status == 200 and kernel not in json.dumps(body) and "ann" not in json.dumps(body)
    assert nobody == [401, 401, 401]
    assert set(others) <= {403, 404}, others
    assert idle[0] < 500 and ended[0] < 500, (idle, ended)

    # The pod itself: who has no keys of it gets no answer.
    code = (
        "import zmq\n"
        "context, answers = zmq.Context(), []\n"
        "for port in range(52001, 52007):\n"
        "    for curve in (False, True):\n"
        "        socket = context.socket(zmq.DEALER)\n"
        "        socket.linger = 0\n"
        "        if curve:\n"
        "            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()\n"
        "            socket.curve_serverkey = zmq.curve_keypair()[0]\n"
        "        socket.connect(f'tcp://{address}:{port}')\n"
        "        socket.send_multipart([b'<IDS|MSG>', b'', b'{}', b'{}', b'{}', b'{}'])\n"
        "        answers.append(socket.poll(400))\n"
        "        socket.close()\n"
        "print(json.dumps(answers))"
    )
    assert hub.terminal(bob).tell(f"{ASK}\n{given}\n{code}") == [0] * 12

    assert pods_of(hub, "ann") == before
    assert ann.run_cell(kernel, "print(x)") == "42"
    assert ann.ok(f"gpu-share/allocations/{kernel}")["state"] in ("active", "idle")
    after = rows(hub, ann)
    assert [(r["attempt"], r["instance"], r["path"]) for r in after] == [
        (row["attempt"], row["instance"], row["path"])
    ]
    # To say that ann's process ends did nothing to her, nor to bob's server, which is another one.
    assert bob.run_cell(theirs, "print(y)") == "1"


def test_a_stopped_servers_token_is_refused(hub: HubOfCluster) -> None:
    bob = hub.server("bob")
    token = hub.terminal(bob).tell(f"{ASK}\nprint(json.dumps(own))")
    assert hub.ask_broker("GET", "/v1/shares", token)[0] == 200
    began = time.monotonic()
    hub.stop_server("bob")
    refused = until(
        lambda: hub.ask_broker("GET", "/v1/shares", token)[0] in (401, 403),
        "the token is refused",
        SOON,
    )
    assert refused and time.monotonic() - began < SOON


def test_servers_whose_names_look_alike_share_nothing(hub: HubOfCluster) -> None:
    """``lab`` of ``alice``, and the server of ``alice-lab``."""
    alice = hub.server("alice", "lab")
    kernel = alice.open_notebook("work.ipynb")
    assert alice.run_cell(kernel, "secret = 'alices'; print(secret)") == "alices"
    alice.ok(f"gpu-share/allocations/{kernel}/release", "POST", {})
    alice.wait_for(kernel, "released")
    (row,) = rows(hub, alice)
    hub.stop_server("alice", "lab")

    other = hub.server("alice-lab")
    assert rows(hub, other) == [] and other.kernels() == []
    assert other.ok("gpu-share/allocations") == []
    given = f"kernel, attempt, instance = {kernel!r}, {row['attempt']!r}, {row['instance']!r}"
    code = (
        "user = 'alice'\n"
        f"{KERNEL_CALLS}\n"
        "found = [[m, p, *ask(m, p, b, forged)] for m, p, b in calls]\n"
        "print(json.dumps(found))"
    )
    tried = hub.terminal(other).tell(f"{ASK}\n{given}\n{code}")
    assert not done(tried)
    hub.stop_server("alice-lab")

    alice = hub.server("alice", "lab")
    until(lambda: kernel in alice.kernels(), "the kernel is taken over")
    assert "alices" in alice.run_cell(kernel, "print(secret)")
