"""A real GPU, and processes on it with PyTorch and the kernel-side files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from jupyter_gpu_share.kernel_side import PATH

#: The Python that has PyTorch and `cuda-bindings`.
PYTHON = os.environ.get("JUPYTER_GPU_SHARE_GPU_PYTHON") or sys.executable
#: Seconds for one answer. A process that waits for its GPU for ever is ended then.
PATIENCE = 150.0

#: In what a process says where this machine can do no checkpoint at all.
OUT_OF_REACH = (
    "`cuda-bindings`",
    "driver is too old",
    "not known to checkpoint",
    "on a MIG instance",
    "sees all GPUs",
    "uses MPS",
)


@cache
def missing() -> str:
    """Why nothing of this can run here, in a sentence; empty: it can."""
    if not any(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*")):
        return "This machine has no NVIDIA GPU, so nothing of the process checkpoint is run."
    command = [PYTHON, "-c", "import ipykernel, torch; assert torch.cuda.is_available()"]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return (
            f"{PYTHON} has no ipykernel, or no PyTorch that reaches a GPU: name another Python in "
            "GPU_PYTHON."
        )
    return ""


class Device:
    """The first GPU, as NVML tells of it."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        uuid = pynvml.nvmlDeviceGetUUID(self._handle)
        self.uuid: str = uuid if isinstance(uuid, str) else uuid.decode()

    @property
    def memory(self) -> Any:
        """`total`, `free` and `used` bytes."""
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle)

    def close(self) -> None:
        self._nvml.nvmlShutdown()


#: Runs what it reads line by line, as JSON both ways.
LOOP = """
import json, os, sys, threading, time
import torch
from gpu_share_kernel import cuda, cuda_signs
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print belongs to no answer
space = globals()
for line in sys.stdin:
    try:
        what, code = json.loads(line)
        said = eval(code, space) if what == "eval" else exec(code, space)
        answer = ["ok", said]
    except BaseException as error:
        answer = [type(error).__name__, str(error)]
    out.write(json.dumps(answer) + "\\n")
    out.flush()
"""


class Gone(Exception):  # noqa: N818 - what it is
    """The process has ended, or was ended because it did not answer."""


class GpuProcess:
    """Made by the fixture `start`."""

    def __init__(self, python: str, folder: Path, *, path: str, **env: str) -> None:
        places = [str(PATH), path, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [python, "-c", LOOP],
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        self.pid = self._process.pid

    def ask(self, what: str, code: str) -> tuple[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([what, code]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise Gone(code)
        kind, answer = json.loads(line)
        return kind, answer

    def do(self, code: str) -> None:
        kind, answer = self.ask("exec", code)
        assert kind == "ok", (kind, answer)

    def get(self, expression: str) -> Any:
        kind, answer = self.ask("eval", expression)
        assert kind == "ok", (kind, answer)
        return answer

    def fails(self, expression: str) -> str:
        """The sentence with which it fails."""
        kind, answer = self.ask("eval", expression)
        assert kind in ("RuntimeError", "_StepError"), (kind, answer)
        return str(answer)

    @property
    def state(self) -> str:
        """As the driver tells it."""
        return str(self.get("cuda._state(cuda._driver())"))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)
