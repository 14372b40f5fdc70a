"""Programs with process numbers of their own, as in a container."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from waiting import PATIENCE

_APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Inside:
    """A program that is told lines and tells lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, text: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, "it printed nothing"
        return self._process.stdout.readline().strip()


def own_namespace() -> list[str]:
    """A command that runs another one so; the test is skipped where that cannot be."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a namespace is made by unshare, which needs root")
    tried = subprocess.run(
        [*_APART, "true"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")
    return list(_APART)


@contextmanager
def in_own_namespace(code: str, *arguments: str) -> Iterator[Inside]:
    """Run Python in a namespace of process numbers of its own, with its own /proc."""
    with subprocess.Popen(
        [*own_namespace(), sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Inside(process)
        finally:
            process.kill()
            process.wait(PATIENCE)
