"""A user's server in a pod: no right on the cluster, and a token that proves whose it is."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest
from cluster.fixtures import CLUSTER_MARKS
from hub_of_cluster import ACCESS, HubOfCluster
from hubs import fetch

pytestmark = CLUSTER_MARKS

#: Asks the cluster's API for what somebody with rights would see, with whatever the pod has.
_ASK = """
import json, os, ssl
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
tokens = [str(each) for each in account.rglob("*")] if account.exists() else []
found = {}
for path in PATHS:
    try:
        context = ssl._create_unverified_context()
        with urlopen(URL + path, timeout=10, context=context) as answer:
            found[path] = answer.status
    except HTTPError as error:
        found[path] = error.code
print(json.dumps([tokens, found]))
"""


@contextlib.contextmanager
def way_to_the_api(address: str) -> Iterator[str]:
    """An address in reach of pods that leads to the API server, which is on loopback alone."""
    stop, stopped = socket.socketpair()
    with socket.create_server((address, 0)) as listener, stop, stopped:

        def forward() -> None:
            with selectors.DefaultSelector() as selector:
                selector.register(listener, selectors.EVENT_READ)
                selector.register(stopped, selectors.EVENT_READ)
                other: dict[socket.socket, socket.socket] = {}
                while True:
                    for key, _ in selector.select():
                        if key.fileobj is stopped:
                            for each in other:
                                each.close()
                            return
                        if key.fileobj is listener:
                            inner = listener.accept()[0]
                            outer = socket.create_connection(("127.0.0.1", 6443), timeout=10)
                            other[inner], other[outer] = outer, inner
                            selector.register(inner, selectors.EVENT_READ)
                            selector.register(outer, selectors.EVENT_READ)
                            continue
                        source = key.fileobj
                        assert isinstance(source, socket.socket)
                        if source not in other:
                            continue
                        if data := source.recv(65536):
                            other[source].sendall(data)
                            continue
                        for each in (source, other[source]):
                            selector.unregister(each)
                            each.close()
                            del other[each]

        thread = threading.Thread(target=forward, daemon=True)
        thread.start()
        try:
            yield f"https://{address}:{listener.getsockname()[1]}"
        finally:
            stop.send(b"x")
            thread.join(10)


def test_a_users_server_has_no_right_on_the_cluster(bare_hub: HubOfCluster) -> None:
    hub = bare_hub
    server = hub.server("ann")
    pod = hub.pod_of("ann")
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not [v for v in pod["spec"]["volumes"] if "projected" in v or "secret" in v]
    core, own = "/api/v1/namespaces", "/apis/resource.k8s.io/v1/namespaces"
    paths = [
        *(f"{core}/{hub.kernels}/{each}" for each in ("pods", "secrets", "configmaps", "events")),
        f"{core}/{hub.servers}/pods",
        f"{own}/{hub.kernels}/resourceclaims",
        "/api/v1/nodes",
    ]
    with way_to_the_api(hub.cluster.host_address) as url:
        tokens, found = hub.terminal(server).tell(f"URL = {url!r}; PATHS = {paths!r}\n{_ASK}")
    assert tokens == []
    assert set(found) == set(paths) and set(found.values()) <= {401, 403}


def test_a_servers_token_tells_who_asks_and_from_where(bare_hub: HubOfCluster) -> None:
    hub = bare_hub
    code = (
        "import json, os, urllib.request as r\n"
        "ask = r.Request(os.environ['JUPYTERHUB_API_URL'] + '/user')\n"
        "ask.add_header('Authorization', 'token ' + os.environ['JUPYTERHUB_API_TOKEN'])\n"
        "print(r.urlopen(ask, timeout=10).read().decode())"
    )
    for user, name in (("ann", ""), ("alice", "lab"), ("alice-lab", "")):
        found = hub.terminal(hub.server(user, name)).tell(code)
        assert found["kind"] == "user" and found["name"] == user and "groups" in found
        servers = [each for each in found["scopes"] if each.startswith("access:servers!")]
        assert servers == [f"access:servers!server={user}/{name}"]
        assert ACCESS in found["scopes"]
        hub.stop_server(user, name)
    # A token of a user's own names no server.
    own = fetch(f"{hub.url}hub/api/user", token=hub.token("ann"))[1]
    assert not [each for each in own["scopes"] if each.startswith("access:servers!server=")]
    assert ACCESS in own["scopes"]


@pytest.fixture(autouse=True)
def no_servers(bare_hub: HubOfCluster) -> Iterator[None]:
    """Leave no server to other tests."""
    yield
    bare_hub.stop_servers()
