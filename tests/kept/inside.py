"""Runs in a process of its own: has notebook states made and saved, or brought back.

::

    python inside.py save FILE    # states on stdin, as JSON; what was found goes to stdout
    python inside.py load FILE

The shell is IPython's own without a kernel around it, which starts ten times as fast. What needs
the kernel is tried in a real one by ``test_kept_in_a_kernel.py``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

#: Seconds for the proof: this many processes share the machine.
SECONDS = 600.0
#: Of modules that the states define: their text is written into a folder first.
MODULES = "modules"


def shell_of_a_kernel() -> Any:
    """IPython's shell, with a ``__main__`` of its own."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    return InteractiveShell.instance(config=config)


def evaluated(expressions: list[str], space: dict[str, Any]) -> list[str]:
    """What each expression is, as text; the error instead where it fails."""
    found = []
    for each in expressions:
        try:
            found.append(repr(eval(each, space)))
        except BaseException as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def evaluated_aside(expressions: list[str], space: dict[str, Any]) -> list[str]:
    """The same in a copy of this process: what an expression changes is not changed here."""
    reading, writing = os.pipe()
    state = random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        try:
            random.setstate(state)  # a forked process begins with another
            with os.fdopen(writing, "w") as file:
                json.dump(evaluated(expressions, space), file)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return list(json.loads(text)) if text else ["the check has ended the process"] * 999


def run(shell: Any, cell: str) -> str:
    """Run a cell; its error, if it has one."""
    result = shell.run_cell(cell, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    return "" if error is None else f"{type(error).__name__}: {error}"


def main(what: str, file: str) -> dict[str, Any]:
    task = json.load(sys.stdin)
    for name, text in task[MODULES].items():
        Path(name).write_text(text)
    sys.path.insert(0, str(Path.cwd()))
    shell = shell_of_a_kernel()
    from gpu_share_kernel import snapshot

    checks = task["checks"]
    if what == "save":
        look = evaluated_aside if task["aside"] else evaluated
        errors = [run(shell, cell) for cell in task["cells"]]
        before = look(checks, shell.user_ns)
        told = snapshot.survey()
        between = look(checks, shell.user_ns)
        manifest = snapshot.save(file, seconds=SECONDS)
        return {
            "errors": errors,
            "before": before,
            "between": between,
            "afterwards": look(checks, shell.user_ns),
            "told": told["lost"],
            "why": told["why"],
            "saved": manifest["lost"],
            "disproved": manifest["disproved"],
        }
    found = snapshot.restore(file)
    return {
        "line": found["line"],
        "failed": found["failed"],
        "after": [*evaluated(checks, shell.user_ns)],
    }


if __name__ == "__main__":
    output, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    answer = main(*sys.argv[1:])
    json.dump(answer, output)
    output.flush()
    os._exit(0)  # what the states have left behind is of no interest
