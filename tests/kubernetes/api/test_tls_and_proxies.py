"""TLS and proxies: what is replaced is noticed, and what fails is told in words."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from listener import Listener
from proxy import Proxy
from scripted import NAMESPACE, ScriptedServer, right, stream, write_kubeconfig
from waiting import eventually

from jupyter_gpu_share.engines.kubernetes.api import (
    PODS,
    KubeApi,
    KubernetesError,
    Unreachable,
    Untrusted,
    _transport,
)
from jupyter_gpu_share.engines.kubernetes.api._access import Access

SOON = 20.0


# -- TLS -------------------------------------------------------------------------------------


async def secure(authority: Authority, path: Path, **cluster: Any) -> tuple[ScriptedServer, Path]:
    """A FAKE with TLS, and a kubeconfig that trusts the file ``ca.crt`` beside it."""
    server = await ScriptedServer().start(authority.server)
    (path / "ca.crt").write_bytes(authority.certificate.read_bytes())
    config = {"certificate-authority": "ca.crt", **cluster}
    return server, write_kubeconfig(
        path / "kubeconfig", server.url, token="t0ken-one", cluster=config
    )


@pytest.mark.parametrize(
    ("trusted", "words"),
    [("new", "certificate is not accepted, self.signed"), ("elsewhere", "not valid for")],
)
async def test_a_certificate_that_is_not_accepted(
    authorities: dict[str, Authority], tmp_path: Path, trusted: str, words: str
) -> None:
    presented = "old" if trusted == "new" else trusted
    server, config = await secure(authorities[presented], tmp_path)
    (tmp_path / "ca.crt").write_bytes(authorities[trusted].certificate.read_bytes())
    api = KubeApi(str(config), patience=3600.0)
    with pytest.raises(Untrusted, match=words):
        # It is no use to repeat that for an hour.
        await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
    assert not server.calls
    await api.close()
    await server.close()


async def test_no_tls_where_it_should_be(tmp_path: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    server = Listener(plain)
    await server.start()
    url = f"https://127.0.0.1:{server.port}"
    api = KubeApi(str(write_kubeconfig(tmp_path / "kubeconfig", url)), patience=0.0)
    with pytest.raises(Unreachable, match="no secure connection"):
        await api.list(PODS, NAMESPACE)
    await api.close()
    await server.close()


async def test_an_authority_that_is_replaced_under_the_same_name(
    authorities: dict[str, Authority], tmp_path: Path
) -> None:
    server, config = await secure(authorities["old"], tmp_path)
    api = KubeApi(str(config))
    await api.list(PODS, NAMESPACE)
    await server.close()
    renewed = await ScriptedServer().start(authorities["new"].server, server.port)
    (tmp_path / "ca.crt").write_bytes(authorities["new"].certificate.read_bytes())
    await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
    assert len(renewed.calls) == 1
    await api.close()
    await renewed.close()


async def test_a_certificate_of_ours_that_is_replaced_under_the_same_name(
    authorities: dict[str, Authority], tmp_path: Path
) -> None:
    authority = authorities["old"]
    server, config = await secure(authority, tmp_path)
    context = {"certificate-authority": str(authority.certificate)}
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    write_kubeconfig(config, server.url, cluster=context, **user)
    shown: list[str] = []

    async def looks(server: ScriptedServer, call: Any, line: Any) -> bool:
        peer = line.writer.get_extra_info("peercert")
        shown.append(peer["serialNumber"] if peer else "none")
        if len(shown) == 1:
            await line.answer(401, b"expired")
            return True
        return await right(server, call, line)

    async def replaces(server: ScriptedServer, call: Any, line: Any) -> bool:
        serials.append(await asyncio.to_thread(authority.issue, tmp_path))
        return await looks(server, call, line)

    serials = [authority.issue(tmp_path)]
    server.then("list", replaces, looks)
    api = KubeApi(str(config))
    await api.list(PODS, NAMESPACE)
    await api.close()
    await server.close()
    assert shown == serials
    assert len(set(serials)) == 2


async def watched(api: KubeApi, silence: float, at_line: Callable[[], Any] = int) -> None:
    """Read a watch to its end."""
    path, query = PODS.path(NAMESPACE), {"watch": "1"}
    async with api.stream(path, "watch pods", query, silence) as lines:
        async for _ in lines:
            at_line()


async def test_a_silent_watch_over_tls_is_dropped_at_once(
    authorities: dict[str, Authority], tmp_path: Path
) -> None:
    server, config = await secure(authorities["old"], tmp_path)
    silent = await Proxy(server.port).start()
    cluster = {"certificate-authority": "ca.crt"}
    write_kubeconfig(config, f"https://127.0.0.1:{silent.port}", cluster=cluster)
    server.then("watch", stream(b"first\n"))
    api = KubeApi(str(config))
    with pytest.raises(Unreachable, match="did not answer in time"):
        await watched(api, 0.2, silent.fall_silent)
    # Nobody answers a goodbye: the connection has to go without one.
    await eventually(lambda: not silent._open, "it is gone before anything is closed", 10.0)
    await api.close()
    await silent.close()
    await server.close()


# -- proxies ---------------------------------------------------------------------------------


async def proxy_of(config: Path) -> str | None:
    """The proxy that a client would use."""
    access = Access(str(config), "")
    try:
        async with access.client() as (client, _):
            found: str | None = client.configuration.proxy
            return found
    finally:
        await access.close()


@pytest.mark.parametrize(
    ("address", "environment", "proxy"),
    [
        ("https://kube.example", {}, None),
        ("https://kube.example", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://kube.example", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://kube.example", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://kube.example", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://kube.example:6443", {"NO_PROXY": "kube.example"}, None),
        ("https://kube.example:6443", {"NO_PROXY": ".example"}, None),
        ("https://kube.example:6443", {"NO_PROXY": "be.example"}, "http://p:2"),
        ("https://kube.example:6443", {"NO_PROXY": "*"}, None),
        ("https://10.96.0.1", {"NO_PROXY": "10.0.0.0/8"}, None),
        ("https://10.96.0.1:443", {"no_proxy": "x, 10.96.0.0/12 ,y"}, None),
        ("https://10.96.0.1", {"NO_PROXY": "10.96.0.1"}, None),
        ("https://11.96.0.1", {"NO_PROXY": "10.0.0.0/8,a/b"}, "http://p:2"),
        ("https://[fd00::1]:6443", {"NO_PROXY": "fd00::/8"}, None),
        ("https://[fd00::1]:6443", {"NO_PROXY": "10.0.0.0/8"}, "http://p:2"),
        ("https://127.0.0.1:6443", {"NO_PROXY": ""}, None),
        ("https://[::1]:6443", {"NO_PROXY": ""}, None),
        ("https://localhost:6443", {"NO_PROXY": ""}, None),
    ],
)
async def test_the_environment_names_the_proxy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    environment: dict[str, str],
    proxy: str | None,
) -> None:
    if "NO_PROXY" in environment or "no_proxy" in environment:
        monkeypatch.setenv("HTTPS_PROXY", "http://p:2")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert await proxy_of(write_kubeconfig(tmp_path / "kubeconfig", address)) == proxy


async def test_a_kubeconfig_names_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    cluster = {"proxy-url": "http://q:1"}
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, "https://kube.example", cluster=cluster)
    assert await proxy_of(config) == "http://q:1"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:t0ken@p:1")
    for cluster in ({}, {"proxy-url": "socks5://user:t0ken@q:1"}):
        write_kubeconfig(config, "https://kube.example", cluster=cluster)
        with pytest.raises(KubernetesError, match="socks5://") as caught:
            await proxy_of(config)
        assert "t0ken" not in str(caught.value)
        monkeypatch.delenv("HTTPS_PROXY", raising=False)


async def test_requests_go_through_the_proxy(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:t0ken-of-proxy@127.0.0.1:{server.port}")
    config = write_kubeconfig(tmp_path / "kubeconfig", "http://kube.example", token="t0ken-one")
    # An entry here must not make a request fail that has a token.
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    api = KubeApi(str(config), patience=0.0)
    server.put("a")
    items, _ = await api.list(PODS, NAMESPACE)
    assert len(items) == 1
    (call,) = server.calls
    assert call.target.startswith("http://kube.example/api/v1/")
    assert call.headers["authorization"] == "Bearer t0ken-one"
    login = base64.b64encode(b"user:t0ken-of-proxy").decode()
    assert call.headers["proxy-authorization"] == f"Basic {login}"
    await server.close()
    with pytest.raises(Unreachable, match="no connection to the proxy") as caught:
        await api.list(PODS, NAMESPACE)
    assert "t0ken" not in f"{caught.value} {caught.value.__cause__}"
    await api.close()


class Tunnel:
    """A FAKE proxy for TLS. ``answer`` is what it says to ``CONNECT``; nothing: it is silent."""

    def __init__(self, port: int, answer: str = "200 Connected") -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.port = 0
        self._target = port
        self._listener = Listener(self._serve)

    async def start(self) -> Tunnel:
        """Listen."""
        await self._listener.start()
        self.port = self._listener.port
        return self

    async def close(self) -> None:
        """End."""
        await self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = None
        try:
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")[0])
            if self.answer:
                writer.write(f"HTTP/1.1 {self.answer}\r\n\r\n".encode())
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            if self.answer.startswith("200"):
                await asyncio.gather(_pass(reader, back), _pass(there, writer))
            elif not self.answer:
                await reader.read()
        finally:
            if back is not None:
                back.transport.abort()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await back.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise OSError("closed")


@pytest.mark.parametrize(
    ("answer", "words"),
    [("407 No", "the proxy refused with 407"), ("", "did not answer in time")],
)
async def test_tls_goes_through_the_proxy(
    authorities: dict[str, Authority],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    words: str,
) -> None:
    monkeypatch.setattr(_transport, "_REQUEST", 1.0)
    server, config = await secure(authorities["old"], tmp_path)
    tunnel = await Tunnel(server.port).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:t0ken-of-proxy@127.0.0.1:{tunnel.port}")
    cluster = {"certificate-authority": "ca.crt"}
    write_kubeconfig(config, "https://kube.example:6443", token="t0ken-one", cluster=cluster)
    api = KubeApi(str(config), patience=0.0)
    await api.list(PODS, NAMESPACE)
    assert tunnel.asked == ["CONNECT kube.example:6443 HTTP/1.1"]
    assert "proxy-authorization" not in server.calls[0].headers
    await api.close()
    tunnel.answer = answer
    api = KubeApi(str(config), patience=0.0)
    with pytest.raises(Unreachable, match=words) as caught:
        await asyncio.wait_for(api.list(PODS, NAMESPACE), SOON)
    assert "t0ken" not in f"{caught.value} {caught.value.__cause__}"
    # A watch has no limit in all, but must not wait for a connection for ever.
    with pytest.raises(Unreachable, match=words):
        await asyncio.wait_for(watched(api, 60.0), SOON)
    await api.close()
    await tunnel.close()
    await server.close()
