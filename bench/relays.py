"""What a relay takes of the process that it is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from .kernels import PATIENCE, isolate
from .load import resident
from .rows import Row

RELAYS = 50
THREADS, DESCRIPTORS, KIB = 3, 25, 1024


def rows() -> list[Row]:
    """Threads, descriptors and memory for each relay that a kernel is behind."""
    # A process of its own: nothing else is opened or given back meanwhile.
    command = [sys.executable, "-m", "bench.relays"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return [
        Row("threads for each relay", "", found["threads"], None, THREADS, f"at most {THREADS}"),
        Row(
            "descriptors for each relay",
            "",
            found["descriptors"],
            None,
            DESCRIPTORS,
            f"at most {DESCRIPTORS}",
        ),
        Row("memory for each relay", "KiB", found["kib"], None, KIB, f"at most {KIB} KiB"),
    ]


def _measure() -> dict[str, float]:
    from jupyter_gpu_share.engines.base import Connection
    from jupyter_gpu_share.relay import Relay

    isolate()
    folder = tempfile.TemporaryDirectory(prefix="relays-")
    manager = KernelManager(transport="ipc", ip=str(Path(folder.name) / "k"))
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    client.stop_channels()
    info: Any = manager.get_connection_info()
    ports = {name: info[f"{name}_port"] for name in ("shell", "iopub", "stdin", "control", "hb")}
    where = Connection("ipc", info["ip"], ports, info["key"])
    relays: list[Relay] = []

    def add() -> None:
        relays.append(Relay(key=info["key"]))
        relays[-1].bind()
        relays[-1].attach(where).result(PATIENCE)

    add()
    before = _taken()
    for _ in range(RELAYS):
        add()
    after = _taken()
    for relay in relays:
        relay.close().result(PATIENCE)
    manager.shutdown_kernel(now=True)
    folder.cleanup()
    return {name: (after[name] - before[name]) / RELAYS for name in before}


def _taken() -> dict[str, float]:
    time.sleep(1)  # connections are made beside us
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "kib": resident() / 2**10,
    }


if __name__ == "__main__":
    print(json.dumps(_measure()))
