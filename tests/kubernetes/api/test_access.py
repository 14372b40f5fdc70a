"""Credentials: they change while they are used, and what is wrong with them is told in words."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import stat
from asyncio.base_subprocess import BaseSubprocessTransport
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from kubernetes.aio.config import incluster_config
from scripted import NAMESPACE, ScriptedServer, right, silence, write_kubeconfig
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import (
    PODS,
    KubeApi,
    KubernetesError,
    Unauthorized,
    _access,
)

SOON = 20.0


def tokens(server: ScriptedServer) -> list[str]:
    """Those that came, one after the other."""
    sent = [call.headers.get("authorization", "") for call in server.calls]
    return [token.partition(" ")[2] for token in sent]


# -- tokens ----------------------------------------------------------------------------------


async def test_a_kubeconfig_that_was_written_anew(
    server: ScriptedServer, api: KubeApi, kubeconfig: Path
) -> None:
    server.tokens = {"t0ken-one"}
    await api.list(PODS, NAMESPACE)
    server.tokens = {"t0ken-two"}
    write_kubeconfig(kubeconfig, server.url, token="t0ken-two")
    await api.list(PODS, NAMESPACE)
    assert tokens(server) == ["t0ken-one", "t0ken-one", "t0ken-two"]
    server.tokens = {"t0ken-three"}
    with pytest.raises(Unauthorized, match="renew the token"):
        await api.list(PODS, NAMESPACE)
    assert len(server.calls) == 5


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_token_in_a_file(server: ScriptedServer, tmp_path: Path, end: str) -> None:
    token, config = tmp_path / "token", tmp_path / "kubeconfig"
    api = KubeApi(str(write_kubeconfig(config, server.url, tokenFile="token")))
    for text in ("t0ken-one", "t0ken-two"):
        token.write_text(text + end)
        server.tokens = {text}
        await api.list(PODS, NAMESPACE)
    token.write_text("t0ken\nthree")
    server.tokens = {"t0ken-three"}
    with pytest.raises(KubernetesError, match="not one line") as caught:
        await api.list(PODS, NAMESPACE)
    await api.close()
    assert "t0ken" not in str(caught.value)


class Plugin:
    """A credential plugin: it counts how often it was asked, and says what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.said, self._count = folder / "said", folder / "count"
        self._answer = folder / "answer"
        os.mkfifo(self._answer)
        # Held open for both, so that nobody waits for another end.
        self._end = os.open(self._answer, os.O_RDWR)
        self.path = folder / "plugin"
        self.path.write_text(
            f"#!/bin/sh\nexec < {self._answer}\necho >> {self._count}\n. {self.said}\n"
        )
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def go_on(self) -> None:
        """Answer what it asks."""
        os.write(self._end, b"yes\n")

    def close(self) -> None:
        """Let whatever still asks go on."""
        self.go_on()
        os.close(self._end)

    def says(self, token: str, after: str = "") -> None:
        """Give this token from now on, after a command."""
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token},
        }
        self.said.write_text(f"{after}\necho '{json.dumps(credential)}'\n")

    @property
    def asked(self) -> int:
        """How often it was."""
        return self._count.read_text().count("\n") if self._count.exists() else 0

    @property
    def user(self) -> dict[str, Any]:
        """What a kubeconfig says of it."""
        version = "client.authentication.k8s.io/v1"
        return {"exec": {"command": str(self.path), "apiVersion": version}}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    """A credential plugin."""
    plugin = Plugin(tmp_path)
    yield plugin
    plugin.close()


async def test_a_plugin_is_asked_once_for_all(
    server: ScriptedServer, tmp_path: Path, plugin: Plugin
) -> None:
    plugin.says("t0ken-one")
    server.tokens = {"t0ken-one"}
    api = KubeApi(str(write_kubeconfig(tmp_path / "kubeconfig", server.url, **plugin.user)))
    await asyncio.gather(*(api.list(PODS, NAMESPACE) for _ in range(10)))
    assert plugin.asked == 1
    plugin.says("t0ken-two")
    server.tokens = {"t0ken-two"}
    await asyncio.gather(*(api.list(PODS, NAMESPACE) for _ in range(10)))
    await api.close()
    assert plugin.asked == 2


async def test_a_plugin_that_fails_takes_nothing_away(
    server: ScriptedServer, tmp_path: Path, plugin: Plugin
) -> None:
    plugin.says("t0ken-one")
    server.tokens = {"t0ken-one"}
    api = KubeApi(str(write_kubeconfig(tmp_path / "kubeconfig", server.url, **plugin.user)))
    await api.list(PODS, NAMESPACE)
    plugin.said.write_text("echo no network; exit 1\n")
    server.tokens = set()
    with pytest.raises(KubernetesError, match="plugin"):
        await api.renew()
    server.tokens = {"t0ken-one"}
    # As nobody it would be refused.
    await api.list(PODS, NAMESPACE)
    server.tokens = {"t0ken-two"}
    failures = await asyncio.gather(
        *(api.list(PODS, NAMESPACE) for _ in range(5)), return_exceptions=True
    )
    assert all("plugin" in str(failure) for failure in failures)
    assert plugin.asked == 3
    plugin.says("t0ken-two")
    await api.list(PODS, NAMESPACE)
    await api.close()


async def test_a_plugin_that_waits_for_somebody(
    server: ScriptedServer, tmp_path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_access, "_PLUGIN", 0.2)
    plugin.says("t0ken-one", after="read answer")
    api = KubeApi(str(write_kubeconfig(tmp_path / "kubeconfig", server.url, **plugin.user)))
    for _ in range(3):
        with pytest.raises(KubernetesError, match="no answer in"):
            await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
    assert plugin.asked == 1
    monkeypatch.setattr(_access, "_PLUGIN", SOON)
    plugin.go_on()
    await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
    assert tokens(server) == ["t0ken-one"]
    await api.close()


async def test_close_does_not_wait_for_a_plugin(
    server: ScriptedServer, tmp_path: Path, plugin: Plugin
) -> None:
    plugin.says("t0ken-one", after="read answer")
    api = KubeApi(str(write_kubeconfig(tmp_path / "kubeconfig", server.url, **plugin.user)))
    asked = asyncio.create_task(api.list(PODS, NAMESPACE))
    await eventually(lambda: plugin.asked == 1, "the plugin runs")
    await asyncio.wait_for(api.close(), SOON)
    with pytest.raises(KubernetesError, match="closed"):
        await asyncio.wait_for(asked, SOON)
    plugin.go_on()
    await eventually(no_process, "asyncio has seen the plugin's end")


def no_process() -> bool:
    """Whether asyncio has none under way; one that is left when a loop ends is complained of."""
    running = [one for one in gc.get_objects() if isinstance(one, BaseSubprocessTransport)]
    return all(one._proc is None for one in running)


@pytest.fixture
async def pod_token(
    authorities: dict[str, Authority],
    server: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """This process takes itself for one in a pod; the file with its token."""
    await server.close()
    await server.start(authorities["old"].server)
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    (tmp_path / "namespace").write_text("notebooks\n")
    for module in (_access, incluster_config):
        monkeypatch.setattr(module, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    authority.write_bytes(authorities["old"].certificate.read_bytes())
    token.write_text("t0ken-one\n")
    server.tokens = {"t0ken-one"}
    return token


async def test_inside_a_pod(server: ScriptedServer, pod_token: Path) -> None:
    api = KubeApi()
    await api.list(PODS, NAMESPACE)
    assert api.namespace == "notebooks"
    pod_token.write_text("t0ken-two\n")
    server.tokens = {"t0ken-two"}
    await api.list(PODS, NAMESPACE)
    # As it is for a moment while a token is replaced by something less careful than a kubelet.
    pod_token.write_text("")
    server.tokens = {"t0ken-three"}
    with pytest.raises(KubernetesError, match="Token file exists but empty"):
        await api.list(PODS, NAMESPACE)
    pod_token.write_text("t0ken-three\n")
    await api.list(PODS, NAMESPACE)
    await api.close()


async def test_a_pods_token_is_read_again_before_it_runs_out(
    server: ScriptedServer, pod_token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(incluster_config.InClusterConfigLoader):  # type: ignore[misc]
        def _read_token_file(self) -> None:
            self._token_refresh_period = timedelta(0)
            super()._read_token_file()

    monkeypatch.setattr(incluster_config, "InClusterConfigLoader", Impatient)
    server.tokens = set()
    api = KubeApi()
    await api.list(PODS, NAMESPACE)
    pod_token.write_text("t0ken-two\n")
    await api.list(PODS, NAMESPACE)
    for empty in (lambda: pod_token.write_text(""), pod_token.unlink):
        empty()
        with pytest.raises(KubernetesError, match="ServiceAccount's token cannot be read"):
            await api.list(PODS, NAMESPACE)
    pod_token.write_text("t0ken-three\n")
    await api.list(PODS, NAMESPACE)
    assert tokens(server) == ["t0ken-one", "t0ken-two", "t0ken-three"]
    await api.close()


# -- renewing beside what is under way -------------------------------------------------------


async def test_requests_under_way_are_not_disturbed(
    server: ScriptedServer, api: KubeApi, kubeconfig: Path
) -> None:
    go_on = asyncio.Event()

    async def slow(server: ScriptedServer, call: Any, line: Any) -> bool:
        await go_on.wait()
        return await right(server, call, line)

    server.put("a")
    server.then("get", slow)
    asked = asyncio.create_task(api.get(PODS, "a", NAMESPACE))
    await eventually(lambda: server.asked("get"), "the request is under way")
    # The cluster moves on twice: the first client is two generations old by then.
    others = [await ScriptedServer().start() for _ in range(2)]
    for other in others:
        write_kubeconfig(kubeconfig, other.url, token="t0ken-one")
        await api.renew()
        await api.list(PODS, NAMESPACE)
        assert len(other.calls) == 1
    await eventually(lambda: not others[0].lines, "what is of no more use is closed")
    assert len(server.lines) == 1
    go_on.set()
    found = await asyncio.wait_for(asked, SOON)
    assert found["metadata"]["uid"] == server.pods["a"]["metadata"]["uid"]
    await eventually(lambda: not server.lines, "its connection is closed after that", 10.0)
    await api.close()
    for other in others:
        await other.close()


async def test_close_ends_former_clients_too(
    server: ScriptedServer, api: KubeApi, kubeconfig: Path
) -> None:
    server.then("get", silence)
    asked = asyncio.create_task(api.get(PODS, "a", NAMESPACE))
    await eventually(lambda: server.asked("get"), "the request is under way")
    other = await ScriptedServer().start()
    write_kubeconfig(kubeconfig, other.url, token="t0ken-one")
    await api.renew()
    await api.close()
    with pytest.raises(KubernetesError):
        await asyncio.wait_for(asked, SOON)
    await eventually(lambda: not server.lines, "its connection is closed")
    await other.close()


async def test_only_a_token_is_exchanged_on_the_connections_there_are(
    server: ScriptedServer, api: KubeApi, kubeconfig: Path
) -> None:
    await api.list(PODS, NAMESPACE)
    (line,) = server.lines
    write_kubeconfig(kubeconfig, server.url, token="t0ken-two")
    await api.renew()
    await api.list(PODS, NAMESPACE)
    assert server.lines == {line}
    assert tokens(server) == ["t0ken-one", "t0ken-two"]


# -- kubeconfigs that cannot be used ---------------------------------------------------------


def without(config: Path, what: Callable[[dict[str, Any]], Any]) -> str:
    """The kubeconfig after a mistake was made."""
    content = json.loads(config.read_text())
    what(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda c: c.update(users=[{"name": "alice", "token": "t0ken-one"}]), "Expected key user"),
        (lambda c: c.pop("current-context"), "current-context"),
        (lambda c: c["contexts"][0].pop("context"), "Expected key context"),
        (lambda c: c.update({"current-context": "gone"}), "gone"),
        (lambda c: c.update(clusters=5), "TypeError"),
        (
            lambda c: c["clusters"][0]["cluster"].update(
                {"server": "https://127.0.0.1", "certificate-authority": "/nowhere/ca.crt"}
            ),
            "/nowhere/ca.crt",
        ),
        (
            lambda c: c["clusters"][0]["cluster"].update(
                {"server": "https://127.0.0.1", "certificate-authority-data": "dDBrZW4tb25l"}
            ),
            "X509|PEM|certificate",
        ),
        (
            lambda c: c["users"][0].update(user={"exec": {"args": ["t0ken-one"]}}),
            "plugin",
        ),
    ],
)
async def test_mistakes_in_a_kubeconfig(
    kubeconfig: Path, mistake: Callable[[dict[str, Any]], Any], words: str
) -> None:
    kubeconfig.write_text(without(kubeconfig, mistake))
    await refused(kubeconfig, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "TypeError"),
        ("users: [{token: t0ken-one", "ParserError"),
        ("\x00t0ken-one", "ReaderError"),
    ],
)
async def test_no_kubeconfig_at_all(kubeconfig: Path, text: str, words: str) -> None:
    kubeconfig.write_text(text)
    await refused(kubeconfig, words)
    kubeconfig.unlink()
    await refused(kubeconfig, "no such file")


async def refused(kubeconfig: Path, words: str) -> None:
    """Access is refused, in words that hold no secret."""
    api = KubeApi(str(kubeconfig))
    with pytest.raises(KubernetesError, match=words) as caught:
        await api.list(PODS, NAMESPACE)
    await api.close()
    text = str(caught.value)
    assert text.startswith("There is no usable access to a Kubernetes cluster: ")
    assert "t0ken" not in text
    assert "\n" not in text
    # Nor where a log has the traceback.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
