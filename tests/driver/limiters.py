"""Root's service that limits GPU memory, run on control groups of this machine's own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_driver import FakeDriver
from waiting import PATIENCE

from jupyter_gpu_share.limiter._groups import Groups, mounted

ROOT = Path(__file__).parent.parent.parent


def needs_groups() -> Path:
    """Where control groups can be made; skips the test where they cannot."""
    root = mounted()
    if os.getuid() != 0 or root is None:
        pytest.skip("control groups of version 2 are made by root, where they are mounted")
    tried = root / f"gpu-share-{uuid.uuid4().hex}"
    try:
        tried.mkdir()
        tried.rmdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    return root


@contextmanager
def tree_of() -> Iterator[Path]:
    """A folder for control groups. What is left in it is killed."""
    tree = needs_groups() / f"gpu-share-{uuid.uuid4().hex}"
    tree.mkdir()
    try:
        yield tree
    finally:
        groups = Groups(tree)
        for path in list(groups.all()):
            assert groups.end(path, PATIENCE)
            groups.remove(path)
        tree.rmdir()


@contextmanager
def running(driver: FakeDriver, tree: Path, *options: str) -> Iterator[Path]:
    """The service on a fake driver; the path of its socket."""
    path = driver.folder / "limiter.sock"
    command = [sys.executable, "-m", "jupyter_gpu_share.limiter", "--socket", str(path)]
    with subprocess.Popen(
        [*command, "--tree", str(tree), *options],
        env={**os.environ, **driver.env, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()  # it says so once it listens
            assert "limits the memory" in said, said
            yield path
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
