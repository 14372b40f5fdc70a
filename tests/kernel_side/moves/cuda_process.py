"""A process with a share of a GPU, whose driver is a FAKE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

MIB, GIB = 2**20, 2**30
FAKE = Path(__file__).parents[1] / "fake_cuda"
UUID = "GPU-a"
#: What a server shows of a sentence.
LONGEST = 200


class Gpus:
    """The fake GPUs of a test, each of 80 GiB, and what a kernel has of the first one."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.add(UUID)
        self.env = {
            "FAKE_GPU": str(folder),
            "LD_LIBRARY_PATH": str(library),
            "JUPYTER_GPU_SHARE_UUID": UUID,
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
            "JUPYTER_GPU_SHARE_ISOLATION": "framework",
            "CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"),
        }

    def add(self, uuid: str) -> None:
        (self.folder / uuid).write_text(str(80 * GIB))

    def neighbour(self, nbytes: int, uuid: str = UUID) -> None:
        """Have another process use so much."""
        (self.folder / f"{uuid}.1").write_text(str(nbytes))

    def used(self, pid: int) -> int | None:
        path = self.folder / f"{UUID}.{pid}"
        return int(path.read_text()) if path.exists() else None


#: Runs what it reads line by line, as JSON both ways.
LOOP = """
import json, sys
space = {}
for line in sys.stdin:
    try:
        what, code = json.loads(line)
        said = eval(code, space) if what == "eval" else exec(code, space)
        answer = ["ok", said]
    except BaseException as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""
IMPORTS = """
import gc, os, sys, types
from cuda.bindings import driver
from gpu_share_kernel import cuda, cuda_signs
"""


class Process:
    """A Python with the kernel-side files and the fakes, 2 GiB of it on the GPU."""

    def __init__(self, gpus: Gpus, **env: str) -> None:
        self.gpus = gpus
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", LOOP],
            env={**os.environ, **gpus.env, "PYTHONPATH": f"{PATH}{os.pathsep}{FAKE}", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.do(IMPORTS)
        self.do(f"driver.allocate({2 * GIB})")

    def _ask(self, what: str, code: str) -> tuple[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, code]) + "\n")
        self._process.stdin.flush()
        kind, answer = json.loads(self._process.stdout.readline())
        return kind, answer

    def do(self, code: str) -> None:
        assert self._ask("exec", code) == ("ok", None)

    def get(self, expression: str) -> Any:
        kind, answer = self._ask("eval", expression)
        assert kind == "ok", answer
        return answer

    def fails(self, expression: str) -> str:
        """The sentence with which it fails."""
        kind, answer = self._ask("eval", expression)
        assert kind in ("BusyError", "RuntimeError", "_StepError"), (kind, answer)
        return sentence(answer)

    @property
    def state(self) -> str:
        return str(self.get("driver.state"))

    @property
    def steps(self) -> list[str]:
        """What the driver was asked to do since the last look."""
        found = self.get("list(driver.calls)")
        self.do("driver.calls.clear()")
        return list(found)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)


def sentence(text: str) -> str:
    """A text, if a server can show all of it as one line."""
    assert text.endswith(".") and len(text) <= LONGEST and text.isprintable(), text
    return text
