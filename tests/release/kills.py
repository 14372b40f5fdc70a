"""One kernel of which something is killed in the middle of a save, a proof or a load."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import Server, until
from waiting import PATIENCE

from .machine import LocalMachine, kernels_of
from .pages import Answer, Heard, Page

__all__ = ["Spans", "Target", "files", "kill", "measured"]

#: Variables that take a while on each way. The last one tells which processes have made it.
COMPUTE = """
import hashlib, os
import numpy as np
def made():
    with open({marks!r}, 'a') as marks:
        print(os.getpid(), file=marks)
    return Last()
class Last:
    def __reduce__(self):
        return made, ()
big = np.random.default_rng(7).random(4_000_000)
view = big[5:]
rows = [dict(n=n, text=str(n)) for n in range(40_000)]
same = rows
last = Last()
"""
#: What they are, all together.
WHOLE = (
    "[hashlib.sha256(big).hexdigest(), bool(np.shares_memory(view, big)), len(rows), rows is same, "
    "rows[-1], type(last).__name__]"
)
#: What stands for them where none is there.
LOST = "lost"
_INTERVAL = 0.002


@dataclass(frozen=True)
class Spans:
    """Seconds that each way took once, with nothing killed."""

    save: float
    proof: float
    load: float


@dataclass
class Target:
    """A kernel in a folder of its own, and who watches it."""

    server: Server
    seed: str
    kernel_id: str = ""
    folder: Path = field(init=False)
    before: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.folder = self.server.folder / self.seed
        self.folder.mkdir(exist_ok=True)
        self.marks = self.folder / "marks"
        self.pool = ThreadPoolExecutor(2)
        self._asked = 0

    def start(self) -> None:
        """Start it, and have it compute."""
        self.kernel_id = self.server.start_kernel("1/8", folder=self.seed)
        answer = self.cell(COMPUTE.format(marks=str(self.marks)))
        assert answer.status == "ok", answer
        self.before = self.variables()
        assert self.before != LOST

    # -- what it is asked ----------------------------------------------------------------------

    def cell(self, code: str, **expressions: str) -> Answer:
        """Run a cell, and wait for its answer."""
        heard = Heard()
        page = Page(self.server, self.kernel_id, heard)
        try:
            token = self.send(page, code, **expressions)
            until(lambda: token in heard.answers, f"{token} is answered")
            return heard.answers[token]
        finally:
            page.close()

    def send(self, page: Page, code: str, **expressions: str) -> str:
        """Have a page send a cell; its token."""
        self._asked += 1
        page.run(f"t{self._asked}", code, **expressions)
        return f"t{self._asked}"

    def variables(self) -> str:
        """What its variables are; :data:`LOST` where there are none."""
        answer = None

        def found() -> str:
            nonlocal answer
            answer = self.cell("pass", whole=WHOLE)
            if answer.status != "ok":  # the process it was for is gone, or could not start
                return ""
            whole = answer.expressions["whole"]
            if whole["status"] == "ok":
                return str(whole["data"]["text/plain"])
            assert whole["ename"] == "NameError", whole
            return LOST

        try:
            return str(until(found, "its cells are answered"))
        except AssertionError:
            raise AssertionError(f"its cells are answered with {answer}") from None

    def release(self) -> Any:
        """Ask for its release; what will be the status and the body of the answer."""
        path = f"gpu-share/allocations/{self.kernel_id}/release"
        return self.pool.submit(self.server.fetch, path, "POST")

    def row(self) -> dict[str, Any]:
        """What is shown of it."""
        row: dict[str, Any] = self.server.ok(f"gpu-share/allocations/{self.kernel_id}")
        return row

    # -- what is seen of it --------------------------------------------------------------------

    @property
    def processes(self) -> set[int]:
        """Of the kernel."""
        return kernels_of(self.server, self.folder)

    def proving(self) -> list[int]:
        """The processes that read its variables back."""
        found = []
        for pid in self.processes:
            with suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                found += [int(each) for each in children if _proves(each)]
        return found

    def made_in(self) -> set[int]:
        """The processes that have made the last of its variables."""
        return set(map(int, self.marks.read_text().split())) if self.marks.exists() else set()

    def check_once(self) -> None:
        """Nothing of it is in a file, and one process has it all."""
        until(lambda: not files(self.server, self.kernel_id), "no file of it is left")
        assert len(self.processes) == 1, self.processes
        machine = LocalMachine(self.server, self.kernel_id, self.folder, simulate="1xA100-80GB")

        def told() -> bool:
            row = self.row()
            return row["state"] in ("active", "idle") and not machine.differs(row, settled=True)

        until(told, "what is shown of it is so")

    def close(self) -> None:
        """End it."""
        with suppress(AssertionError, OSError):
            self.server.fetch(f"api/kernels/{self.kernel_id}", "DELETE")
        self.pool.shutdown()


def files(server: Server, kernel_id: str) -> list[str]:
    """Names of all files in which a kernel's variables lie, or lay in part."""
    from jupyter_gpu_share.kernels.saved import file_name

    stem = Path(file_name(kernel_id)).stem
    kept = server.folder.parent / "data" / "gpu-share" / "kept"
    return sorted(path.name for path in kept.glob(f"*/*/{stem}*"))


def _proves(pid: str) -> bool:
    return "proof" in Path(f"/proc/{pid}/cmdline").read_text()


def watch(holds: Callable[[], Any], what: str) -> Any:
    """Wait for a moment; closer than :func:`until` does."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(_INTERVAL)
    return found


def kill(pids: set[int]) -> set[int]:
    """Those of them that were there to be killed."""
    killed = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return killed


def measured(target: Target) -> Spans:
    """Release a kernel and wake it again, with nothing killed."""
    begun = time.monotonic()
    asked = target.release()
    watch(target.proving, "its variables are read back")
    proves = time.monotonic()
    watch(lambda: not target.proving(), "they were read back")
    proven = time.monotonic()
    status, row = asked.result(PATIENCE)
    released = time.monotonic()
    assert (status, row["kept"]["how"]) == (200, "snapshot"), (status, row)
    page = Page(target.server, target.kernel_id, heard := Heard())
    try:
        token = target.send(page, "pass", whole=WHOLE)
        watch(lambda: target.processes, "a new process is there")
        starts = time.monotonic()
        watch(lambda: token in heard.answers, "its cell is answered")
    finally:
        page.close()
    assert heard.answers[token].expressions["whole"]["data"]["text/plain"] == target.before
    target.check_once()
    return Spans(released - begun, proven - proves, time.monotonic() - starts)
