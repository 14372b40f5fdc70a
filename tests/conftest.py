"""What all tests share: folders of their own, simulated GPUs, and a runtime that ends with them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.fixtures import cluster, namespace  # noqa: F401
from hypothesis import settings

# By itself hypothesis fails an example that takes 0.2 s: on a busy machine any may.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell that starts one of two runs in the background has it, and all that it starts, ignore
# interrupts. Users have a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def jupyter_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter and IPython folders that only this test uses."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("JUPYTER_GPU_SHARE_SIZE", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return tmp_path


@pytest.fixture
def one_gpu(jupyter_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One simulated GPU of 80 GiB, and a fresh runtime."""
    from jupyter_gpu_share.runtime import Runtime

    monkeypatch.setenv("JUPYTER_GPU_SHARE_SIMULATE", "1xA100-80GB")
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gpu-share-provisioner")
    Runtime.clear_instance()
    yield jupyter_dirs
    Runtime.clear_instance()
