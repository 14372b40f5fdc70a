"""What a server that ends tells its engines first: it may have a second."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from jupyter_gpu_share.runtime import Runtime


class FakeEngine:
    def __init__(self, said: list[str]) -> None:
        self.said = said

    async def leave(self) -> None:
        self.said.append("leave")

    async def close(self) -> None:
        self.said.append("close")


@pytest.mark.parametrize("server", [True, False])
async def test_one_that_ends_without_a_word_says_farewell_before_its_kernels_end(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch, server: bool
) -> None:
    """Whoever keeps the kernels has to know; a program's kernels end with it."""
    said: list[str] = []
    runtime = Runtime(config=Config())
    if server:
        runtime.end_kernel = lambda kernel_id: None
    runtime._engines["fake"] = FakeEngine(said)  # type: ignore[assignment]

    async def close_all(**how: Any) -> None:
        said.append(f"kernels {how['park']}")

    monkeypatch.setattr(runtime.kernels, "close_all", close_all)
    runtime.close()
    assert said == ["leave"] * server + [f"kernels {server}", "close"]


async def test_a_stop_says_farewell_before_all(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    runtime = Runtime(config=Config())
    runtime._engines["fake"] = FakeEngine(said)  # type: ignore[assignment]

    async def close_all(**how: Any) -> None:
        said.append("kernels")

    monkeypatch.setattr(runtime.kernels, "close_all", close_all)
    await runtime.stop()
    assert said == ["leave", "kernels"] and runtime.stopping
    runtime.close()


@pytest.mark.parametrize("fails", [True, False])
def test_connections_are_closed_whatever_becomes_of_kernels(
    jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The machine that a kernel's end waits for may be away, or an engine's close may fail."""
    said: list[str] = []
    monkeypatch.setattr("jupyter_gpu_share.runtime._CLOSE_PATIENCE", 0.2)
    runtime = Runtime(config=Config())

    class Failing(FakeEngine):
        async def close(self) -> None:
            await super().close()
            raise OSError("It is away.")

    runtime._engines["failing"] = Failing(said)  # type: ignore[assignment]
    runtime._engines["fake"] = FakeEngine(said)  # type: ignore[assignment]

    async def close_all(**how: Any) -> None:
        if fails:
            raise OSError("It is away.")
        try:
            await asyncio.Event().wait()
        finally:
            said.append("given up")

    monkeypatch.setattr(runtime.kernels, "close_all", close_all)
    runtime.close()
    assert said == ["given up"] * (not fails) + ["close", "close"]
    assert not runtime._thread.is_alive()
