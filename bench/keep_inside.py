"""A process with a notebook's variables saves them, or gets them back: ``CASE STEP FILE``.

It prints a line of JSON: for each step its seconds, its ``peak`` of memory above that before, and
the ``state``, the memory that the variables take; in bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

_CELLS = {
    "arrays": "import numpy as np\narrays = [np.arange(2**25) * 1.5 + n for n in range(8)]",
    "dicts": "rows = [{'n': n} for n in range(1_500_000)]",
    "many": "globals().update({f'v{n}': [n, str(n)] for n in range(10_000)})",
    "text": (
        "import pandas as pd\n"
        "frame = pd.DataFrame({'text': [f'{n:08d} ' * 10 for n in range(5_500_000)]})"
    ),
}


def main(case: str, step: str, path: str) -> None:
    """Do the step."""
    shell = _shell()
    empty = _memory("VmRSS")
    if step in ("save", "proven", "dump"):
        shell.run_cell(_CELLS[case]).raise_error()
    state = _memory("VmRSS") - empty
    found: dict[str, Any] = {}
    digest = Path(f"{path}.digest")

    def timed(what: str, work: Any) -> Any:
        # The peak so far is forgotten by the kernel of the system.
        Path("/proc/self/clear_refs").write_text("5")
        before, begun = _memory("VmRSS"), perf_counter()
        result = work()
        seconds = perf_counter() - begun
        peak = _memory("VmHWM") - before
        found[what] = {"seconds": seconds, "peak": peak, "state": state}
        return result

    if step in ("save", "proven", "restore"):
        from gpu_share_kernel import snapshot

        if step == "save":
            timed("survey", snapshot.survey)
            told = timed("save", lambda: snapshot.save(path))
            assert not told["lost"], told["lost"]
            digest.write_text(told["digest"])
        elif step == "proven":
            told = timed("proven", lambda: snapshot.save(path, seconds=600.0))
            assert not told["disproved"], told["disproved"]
        else:
            # As the server has it done, which knows the digest.
            told = timed("restore", lambda: snapshot.restore(path, digest.read_text()))
            assert not told["failed"], told["failed"]
    else:
        import cloudpickle

        if step == "dump":
            names = [name for name in shell.user_ns if name not in shell.user_ns_hidden]
            state_of = {n: shell.user_ns[n] for n in names if type(shell.user_ns[n]) is not _MODULE}
            timed("dump", lambda: _dump(cloudpickle, state_of, path))
        else:
            timed("load", lambda: _load(cloudpickle, path))
    print(json.dumps(found))


_MODULE = type(sys)


def _dump(cloudpickle: Any, state: dict[str, Any], path: str) -> None:
    import os

    with Path(path).open("wb") as file:
        cloudpickle.dump(state, file)
        file.flush()
        os.fsync(file.fileno())


def _load(cloudpickle: Any, path: str) -> Any:
    with Path(path).open("rb") as file:
        return cloudpickle.load(file)


def _shell() -> Any:
    """IPython's shell, with a ``__main__`` of its own, and no history on the disk."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    return InteractiveShell.instance(config=config)


def _memory(what: str) -> int:
    """Bytes, as the system counts them for this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(what)


if __name__ == "__main__":
    main(*sys.argv[1:])
