"""Real kernels with a client each, for what runs in them between the cells."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

KEY = "the key of both sides"


#: Code: ``more(what)`` is the memory that a call takes at most, in bytes; ``s`` is the package.
PEAK = """
def status(name):
    rows = dict(r.split(':', 1) for r in open('/proc/self/status') if ':' in r)
    return int(rows[name].split()[0]) * 1024
def more(what):
    open('/proc/self/clear_refs', 'w').write('5')
    before = status('VmRSS')
    what()
    return status('VmHWM') - before
from gpu_share_kernel import snapshot as s
"""


class CellError(Exception):
    """A cell, or what was asked of the kernel, failed; the text is that of the error."""


class _Client(BlockingKernelClient):
    """Waits for a kernel that takes long to start."""

    async def _async_is_alive(self) -> bool:
        return True


class Session:
    """An ipykernel that has the kernel-side files, and its client."""

    def __init__(
        self, folder: Path, *, python: str = sys.executable, path: Sequence[Path] = (), **env: str
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        ports = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
        content = {
            "transport": "ipc",
            "ip": str(self.folder / "k"),
            "key": KEY,
            "signature_scheme": "hmac-sha256",
            **{f"{name}_port": port for name, port in ports.items()},
        }
        file = self.folder / "connection.json"
        file.write_text(json.dumps(content))
        self.process = subprocess.Popen(
            [python, "-m", "ipykernel_launcher", "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,
            env={
                **os.environ,
                "IPYTHONDIR": str(self.folder / "ipython"),
                "PYTHONPATH": os.pathsep.join(map(str, [PATH, *path])),
                **env,
            },
        )
        self._client = _Client()
        self._client.load_connection_info(content)
        self._client.start_channels()
        self._ready = False

    @property
    def client(self) -> BlockingKernelClient:
        """Its client, once the kernel answers."""
        if not self._ready:
            self._client.wait_for_ready(PATIENCE)
            self._ready = True
        return self._client

    def run(self, code: str) -> str:
        """Run a cell; what it printed and the text of its result."""
        said: list[str] = []

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "execute_result":
                said.append(content["data"]["text/plain"])
            elif message["msg_type"] == "error":
                raise CellError(f"{content['ename']}: {content['evalue']}")

        self.client.execute_interactive(code, output_hook=note, timeout=PATIENCE, allow_stdin=False)
        return "".join(said).strip()

    def value(self, expression: str) -> Any:
        """What an expression is, without a trace; it has to be plain data."""
        code = f"__import__('json').dumps({expression})"
        sent = self.client.execute(
            "", silent=True, store_history=False, user_expressions={"it": code}
        )
        while True:
            reply: dict[str, Any] = self.client.get_shell_msg(timeout=PATIENCE)
            if reply["parent_header"].get("msg_id") == sent:
                break
        found = reply["content"]["user_expressions"]["it"]
        if found["status"] != "ok":
            raise CellError(f"{found['ename']}: {found['evalue']}")
        return json.loads(ast.literal_eval(found["data"]["text/plain"]))

    def ask(self, call: str, module: str = "snapshot") -> Any:
        """Call a function of a kernel-side module."""
        return self.value(f"__import__('gpu_share_kernel.{module}', fromlist=['*']).{call}")

    def close(self) -> None:
        if self.process.returncode is not None:
            return
        self._client.stop_channels()
        os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it started
        self.process.wait(PATIENCE)


class Sessions:
    """Kernels of a test. The next two start ahead: most tests need one to save, one to restore."""

    def __init__(self, folder: Path, ahead: int = 2) -> None:
        self._folder = folder
        self._made: list[Session] = []
        self._ready: list[Session] = []
        self._ahead = ahead
        self._fill()

    def close(self) -> None:
        """End them all."""
        for each in self._made:
            each.close()

    @property
    def file(self) -> Path:
        """Where these tests keep their snapshot."""
        return self._folder / "snapshot"

    def start(self, **options: Any) -> Session:
        """A kernel that nobody has used yet."""
        if options or not self._ready:
            return self._new(**options)
        kernel = self._ready.pop(0)
        self._fill()
        return kernel

    def pair(self) -> tuple[Session, Session]:
        """Two of them."""
        return self.start(), self.start()

    def _new(self, **options: Any) -> Session:
        self._made.append(Session(self._folder, **options))
        return self._made[-1]

    def _fill(self) -> None:
        while len(self._ready) < self._ahead:
            self._ready.append(self._new())
