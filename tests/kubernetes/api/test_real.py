"""The API layer against a real API server: what its other tests take for granted of one."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.fixtures import CLUSTER_MARKS
from proxy import Proxy
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import (
    CONFIG_MAPS,
    NODES,
    PODS,
    SECRETS,
    AlreadyExists,
    Change,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    KubeApi,
    NotFound,
    QuotaExceeded,
    Unauthorized,
    Watch,
    _client,
)

pytestmark = CLUSTER_MARKS

ATTEMPT = "gpu-share.jupyter.org/attempt"
LONG = 60.0
Object = dict[str, Any]
Events = list[tuple[str, Object]]


@pytest.fixture
async def api(cluster: Any) -> AsyncIterator[KubeApi]:
    """The API as administrator."""
    api = KubeApi(str(cluster.kubeconfig))
    yield api
    await api.close()


def config_map(name: str, **labels: str) -> Object:
    """Something small."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}


def secret(name: str) -> Object:
    """Something that a quota can count."""
    annotations = {ATTEMPT: secrets.token_hex(8)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "annotations": annotations},
    }


def label(**labels: str | None) -> Object:
    """A patch of labels."""
    return {"metadata": {"labels": labels}}


# -- calls -----------------------------------------------------------------------------------


async def test_an_object_from_its_beginning_to_its_end(api: KubeApi, namespace: str) -> None:
    made = await api.create(CONFIG_MAPS, config_map("a", x="1"), namespace)
    with pytest.raises(AlreadyExists):
        await api.create(CONFIG_MAPS, config_map("a"), namespace)
    changed = await api.patch(CONFIG_MAPS, "a", label(x=None, y="2"), namespace)
    assert changed["metadata"]["labels"] == {"y": "2"}
    assert await api.get(CONFIG_MAPS, "a", namespace) == changed
    found, position = await api.list(CONFIG_MAPS, namespace, labelSelector="y in (2),!x")
    assert [obj["metadata"]["uid"] for obj in found] == [made["metadata"]["uid"]]
    assert int(position) >= int(changed["metadata"]["resourceVersion"])
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    with pytest.raises(Conflict) as caught:
        await api.patch(CONFIG_MAPS, "a", stale, namespace)
    assert not isinstance(caught.value, AlreadyExists)
    with pytest.raises(Invalid, match="refused to create configmaps"):
        await api.create(CONFIG_MAPS, config_map("a", x="no value/of a label"), namespace)
    await api.delete(CONFIG_MAPS, "a", namespace)
    await api.delete(CONFIG_MAPS, "a", namespace)
    with pytest.raises(NotFound):
        await api.get(CONFIG_MAPS, "a", namespace)


async def test_only_the_very_object_is_deleted(api: KubeApi, namespace: str) -> None:
    first = await api.create(CONFIG_MAPS, config_map("a"), namespace)
    await api.delete(CONFIG_MAPS, "a", namespace, uid=first["metadata"]["uid"])
    second = await api.create(CONFIG_MAPS, config_map("a"), namespace)
    await api.delete(CONFIG_MAPS, "a", namespace, uid=first["metadata"]["uid"])
    assert await api.get(CONFIG_MAPS, "a", namespace) == second
    await api.delete(CONFIG_MAPS, "a", namespace, uid=second["metadata"]["uid"])
    with pytest.raises(NotFound):
        await api.get(CONFIG_MAPS, "a", namespace)


async def test_what_the_server_offers_and_allows(
    api: KubeApi, cluster: Any, namespace: str
) -> None:
    assert {"resource.k8s.io/v1", "apps/v1"} <= await api.groups()
    assert int((await api.version())["minor"].rstrip("+")) >= 30
    assert await api.allowed("create", PODS, namespace, "exec")
    cluster.service_account_token(namespace, "nobody")
    nobody = KubeApi(str(cluster.service_account_kubeconfig(namespace, "nobody")))
    assert not await nobody.allowed("create", PODS, namespace)
    assert not await nobody.allowed("list", NODES, None)
    await nobody.close()


async def test_pages(api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await api.create(CONFIG_MAPS, config_map(f"page-{number}", paged="yes"), namespace)
    monkeypatch.setattr(_client, "_PAGE", 2)
    found, position = await api.list(CONFIG_MAPS, namespace, labelSelector="paged=yes")
    assert [obj["metadata"]["name"] for obj in found] == [f"page-{n}" for n in range(5)]
    assert int(position) >= max(int(obj["metadata"]["resourceVersion"]) for obj in found)


async def test_what_a_pod_printed(api: KubeApi, namespace: str) -> None:
    def pod(name: str, image: str, text: str) -> Object:
        container = {
            "name": "main",
            "image": image,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", text],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        spec = {
            "containers": [container],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    talks = "echo one; echo two; echo three"
    await api.create(PODS, pod("talks", "localhost/kernel:1", talks), namespace)
    await api.create(PODS, pod("never", "localhost/nowhere:1", talks), namespace)

    async def over() -> bool:
        found = await api.get(PODS, "talks", namespace)
        return bool(found["status"]["phase"] == "Succeeded")

    await eventually(over, "the pod is over", LONG)
    assert await api.log("talks", namespace, 2) == "two\nthree\n"

    async def scheduled() -> bool:
        return bool((await api.get(PODS, "never", namespace))["spec"].get("nodeName"))

    await eventually(scheduled, "the other one waits for its image", LONG)
    assert await api.log("never", namespace, 2) == ""
    assert await api.log("nobody", namespace, 2) == ""
    for name in ("talks", "never"):
        await api.delete(PODS, name, namespace, grace=0)


# -- watching --------------------------------------------------------------------------------


async def followed(api: KubeApi, namespace: str, selector: str, events: Events) -> None:
    """Write down what a watch says."""
    query = {
        "watch": "1",
        "labelSelector": selector,
        "resourceVersion": (await api.list(CONFIG_MAPS, namespace))[1],
        "timeoutSeconds": "60",
    }
    path = CONFIG_MAPS.path(namespace)
    async with api.stream(path, "watch configmaps", query, 65.0) as lines:
        async for line in lines:
            event = json.loads(line)
            events.append((event["type"], event["object"]))


async def test_versions_count_on_over_deletion_and_selectors(api: KubeApi, namespace: str) -> None:
    """That is what the watch's handling of late events is built on."""
    events: Events = []
    following = asyncio.create_task(followed(api, namespace, "mine=yes", events))
    seen: list[Change] = []
    watch = Watch(api, CONFIG_MAPS, namespace, seen.append, selector="mine=yes")
    await watch.synced()
    try:
        await api.create(CONFIG_MAPS, config_map("first", mine="yes"), namespace)
        await eventually(lambda: events, "it follows")
        await api.patch(CONFIG_MAPS, "first", label(mine="no"), namespace)
        await api.patch(CONFIG_MAPS, "first", label(mine="yes"), namespace)
        await api.delete(CONFIG_MAPS, "first", namespace)
        await api.create(CONFIG_MAPS, config_map("first", mine="yes"), namespace)
        await eventually(lambda: len(events) == 5, "all of it was said")
        await eventually(lambda: len(seen) == 5, "all of it was told")
    finally:
        following.cancel()
        await asyncio.wait([following])
        await watch.close()
    assert [kind for kind, _ in events] == ["ADDED", "DELETED", "ADDED", "DELETED", "ADDED"]
    versions = [int(obj["metadata"]["resourceVersion"]) for _, obj in events]
    assert versions == sorted(set(versions))
    uids = [obj["metadata"]["uid"] for _, obj in events]
    assert uids[0] == uids[1] == uids[2] == uids[3] != uids[4]
    assert watch.objects["first"]["metadata"]["uid"] == uids[4]
    assert [change.new is None for change in seen] == [False, True, False, True, False]


class Forgetful(KubeApi):
    """Asks once for what the server has long forgotten."""

    forgot = False

    def stream(self, path: str, what: str, query: Mapping[str, str], silence: float) -> Any:
        """The real stream, from long ago at first."""
        if not self.forgot:
            self.forgot = True
            query = {**query, "resourceVersion": "1"}
        return super().stream(path, what, query, silence)


async def test_a_position_that_the_server_has_forgotten(cluster: Any, namespace: str) -> None:
    # An API server that starts knows nothing of what was before; one that began with the cluster
    # may still have its first event in memory.
    await asyncio.to_thread(cluster.kill, "apiserver")
    await asyncio.to_thread(cluster.restore)
    api = Forgetful(str(cluster.kubeconfig))
    with pytest.raises(Expired):
        await watched_to_its_end(api, namespace)
    api.forgot = False
    watch = Watch(api, CONFIG_MAPS, namespace, lambda change: None, selector="mine=yes")
    await watch.synced()
    await eventually(lambda: watch.health.lists == 2, "it lists again")
    made = await api.create(CONFIG_MAPS, config_map("a", mine="yes"), namespace)
    await eventually(lambda: watch.objects, "it goes on")
    assert watch.objects["a"]["metadata"]["uid"] == made["metadata"]["uid"]
    assert watch.health.lists == 2
    await watch.close()
    await api.close()


async def watched_to_its_end(api: KubeApi, namespace: str) -> None:
    """Follow raw events and raise what they end with, as a watch does."""
    watch: Any = Watch(api, CONFIG_MAPS, namespace, lambda change: None, period=1.0)
    watch._position = "1"
    await watch._follow()


async def test_pages_that_the_server_has_forgotten(
    api: KubeApi, cluster: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd itself is told to forget, as it does every five minutes."""
    monkeypatch.setattr(_client, "_PAGE", 2)
    for number in range(5):
        await api.create(CONFIG_MAPS, config_map(f"page-{number}", paged="yes"), namespace)
    query = {"labelSelector": "paged=yes", "limit": "2"}
    page = await api._call("GET", CONFIG_MAPS, namespace, query=query)
    await api.patch(CONFIG_MAPS, "page-4", label(x="y"), namespace)
    await asyncio.to_thread(compact)
    late = {**query, "continue": page["metadata"]["continue"]}

    async def expired() -> bool:
        try:
            await api._call("GET", CONFIG_MAPS, namespace, query=late)
        except Expired:
            return True
        return False

    await eventually(expired, "the server has noticed")
    # The same between two pages of one list.
    asked = api._call
    pages = 0

    async def call(*arguments: Any, **settings: Any) -> Object:
        nonlocal pages
        pages += 1
        if pages == 2:
            settings["query"] = late
        return await asked(*arguments, **settings)

    monkeypatch.setattr(api, "_call", call)
    found, _ = await api.list(CONFIG_MAPS, namespace, labelSelector="paged=yes")
    assert [obj["metadata"]["name"] for obj in found] == [f"page-{n}" for n in range(5)]
    assert pages == 3


def compact() -> None:
    """Have etcd forget all but the present, and the API server know, as its own compactor does."""

    def ask(what: str, body: Object) -> Object:
        request = urllib.request.Request(
            f"http://127.0.0.1:2379/v3/kv/{what}", json.dumps(body).encode(), method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            found: Object = json.load(answer)
            return found

    key = base64.b64encode(b"compact_rev_key").decode()
    now = ask("range", {"key": key})["header"]["revision"]
    ask("put", {"key": key, "value": base64.b64encode(now.encode()).decode()})
    ask("compaction", {"revision": now, "physical": True})


# -- rights, quota, credentials --------------------------------------------------------------


async def test_rights_that_are_missing(cluster: Any, namespace: str) -> None:
    cluster.service_account_token(namespace, "nobody")
    api = KubeApi(str(cluster.service_account_kubeconfig(namespace, "nobody")))
    account = f"system:serviceaccount:{namespace}:nobody"
    with pytest.raises(Forbidden, match=f"may not read pods in {namespace}.*{account}.*Role"):
        await api.list(PODS, namespace)
    watch = Watch(api, PODS, namespace, lambda change: None)
    with pytest.raises(Forbidden, match="cannot list resource"):
        await asyncio.wait_for(watch.synced(3600.0), LONG)
    await watch.close()
    await api.close()


async def test_rules_of_the_cluster(api: KubeApi, namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "a"}], "hostNetwork": True},
    }
    with pytest.raises(Forbidden, match=r"rules do not allow.*PodSecurity.*administrator"):
        await api.create(PODS, pod, namespace)


async def limit(cluster: Any, namespace: str) -> None:
    """Have no more than one Secret made."""
    body = {"metadata": {"name": "few"}, "spec": {"hard": {"count/secrets": "1"}}}
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    cluster.api.create(path, body)

    def counted() -> bool:
        status = cluster.api.get(f"{path}/few").get("status", {})
        return bool(status.get("used", {}).get("count/secrets") == "0")

    await eventually(counted, "the quota is counted", LONG)


async def test_a_quota_that_is_used_up(api: KubeApi, cluster: Any, namespace: str) -> None:
    await limit(cluster, namespace)
    await api.create(SECRETS, secret("first"), namespace)
    words = "used up: few, requested: count/secrets=1, used: count/secrets=1.*End a kernel"
    with pytest.raises(QuotaExceeded, match=words):
        await api.create(SECRETS, secret("second"), namespace)
    assert len((await api.list(SECRETS, namespace))[0]) == 1


@pytest.fixture
async def proxied(cluster: Any, tmp_path: Path) -> AsyncIterator[tuple[KubeApi, Proxy]]:
    """The API through something that can lose answers."""
    proxy = await Proxy(6443).start()
    text = cluster.kubeconfig.read_text()
    assert ":6443" in text
    config = tmp_path / "kubeconfig"
    config.write_text(text.replace(":6443", f":{proxy.port}"))
    api = KubeApi(str(config))
    await api.version()  # the connection stands, and its first answers have passed
    yield api, proxy
    await api.close()
    await proxy.close()


@pytest.mark.parametrize("limited", [False, True])
async def test_an_answer_that_is_lost(
    proxied: tuple[KubeApi, Proxy], api: KubeApi, cluster: Any, namespace: str, limited: bool
) -> None:
    """Where there is a quota, the object that was made has used it up itself."""
    through, proxy = proxied
    if limited:
        await limit(cluster, namespace)
    proxy.lose = 1
    made = await through.create(SECRETS, secret("first"), namespace)
    assert proxy.lost == 1
    (found,) = (await api.list(SECRETS, namespace))[0]
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    proxy.lose = 1
    await through.delete(SECRETS, "first", namespace, uid=made["metadata"]["uid"])
    assert proxy.lost == 2
    assert not (await api.list(SECRETS, namespace))[0]


async def test_a_token_of_an_account_that_is_gone(cluster: Any, namespace: str) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.service_account_token(namespace, "alice")
    config = cluster.service_account_kubeconfig(namespace, "alice")
    api = KubeApi(str(config))
    assert not await api.allowed("list", PODS, namespace)
    cluster.api.delete(f"{accounts}/alice")

    async def refused() -> str:
        try:
            await api.allowed("list", PODS, namespace)
        except Unauthorized as error:
            return str(error)
        return ""

    # The API server remembers for some seconds whom it knew.
    words = await eventually(refused, "the token is not accepted any more", LONG)
    assert "does not accept this server's credentials" in words
    token = json.loads(config.read_text())["users"][0]["user"]["token"]
    assert token not in words
    cluster.service_account_token(namespace, "alice")
    again = cluster.service_account_kubeconfig(namespace, "alice")
    config.write_text(again.read_text())
    assert not await api.allowed("list", PODS, namespace)
    await api.close()
