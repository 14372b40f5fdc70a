"""The benchmark's end of a contender's process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

#: Seconds for a process to end once it has no more orders.
_END = 30.0


class Worker:
    """A process that works on orders: it is called with a name and arguments."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process = process
        self._log = log

    def __call__(self, order: str, *arguments: Any) -> Any:
        """Have it do something, and wait for the answer.

        Raises
        ------
        RuntimeError: it has ended; with what it printed last.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([order, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"a contender ended:\n{self._log.read()[-4000:]}")
        return json.loads(line)


@contextmanager
def worker(
    module: str,
    *arguments: str,
    python: Path | str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Iterator[Worker]:
    """A process for the time of a ``with`` statement.

    Parameters
    ----------
    module: what is run, and the arguments after it.
    python: whose packages it has.
    env: its environment; None: this process' own.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=None if env is None else dict(env),
        )
        try:
            yield Worker(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
