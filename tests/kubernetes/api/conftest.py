"""A FAKE API server, a client of it that does not wait long, and certificates."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import Authority, make_authority
from scripted import ScriptedServer, write_kubeconfig
from watched import Watched

from jupyter_gpu_share.engines.kubernetes.api import KubeApi, _access, _client, _watch


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own access to clusters, and short pauses."""
    for name in ("http", "https", "no", "all"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_access, "SERVICE_TOKEN_FILENAME", str(tmp_path / "no-token"))
    for module in (_client, _watch):
        monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """The FAKE."""
    server = await ScriptedServer().start()
    yield server
    await server.close()


@pytest.fixture
def kubeconfig(server: ScriptedServer, tmp_path: Path) -> Path:
    """Names the FAKE, and a token."""
    return write_kubeconfig(tmp_path / "kubeconfig", server.url, token="t0ken-one")


@pytest.fixture
async def api(kubeconfig: Path) -> AsyncIterator[KubeApi]:
    """Access to the FAKE."""
    api = KubeApi(str(kubeconfig), patience=20.0)
    yield api
    await api.close()


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Authority]:
    """``old``, ``new``, and ``elsewhere``, whose name is another."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates of these tests, and is not here")
    folder = tmp_path_factory.mktemp("authorities")
    return {name: make_authority(folder, name) for name in ("old", "new", "elsewhere")}


@pytest.fixture
async def watched(api: KubeApi) -> AsyncIterator[Watched]:
    """A watch of the FAKE."""
    watched = Watched(api)
    yield watched
    await watched.watch.close()
