"""What the broker of a machine costs: a claim beside one in a ledger of one's own, and its process.

Its processor time is measured while 50 servers with four idle kernels each do what they do every
two seconds, so that other programs on the machine do not matter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from time import perf_counter

from jupyter_gpu_share.broker.client import BrokerAway, BrokerClient
from jupyter_gpu_share.engines._processes import this_boot, this_process
from jupyter_gpu_share.engines.idle_shares import IdleShare
from jupyter_gpu_share.engines.local._brokered import BrokeredLedger
from jupyter_gpu_share.engines.local._inventory import inventory
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines.local._shares import Shares
from jupyter_gpu_share.size import Size

from .rows import Row

_SERVERS, _KERNELS = 50, 4
_GPUS = "16xA100-80GB"
_LOOK = 2.0
_SECONDS = 20.0
_CLAIMS = 100
_PATIENCE = 60.0
_COMMAND = "import sys; from jupyter_gpu_share.cli import main; sys.exit(main(sys.argv[1:]))"


def rows() -> list[Row]:
    """A claim and its release, memory and processor time."""
    with tempfile.TemporaryDirectory(prefix="gpu-share-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        config, path = folder / "config.py", folder / "broker.sock"
        config.write_text(
            f"c.Broker.folder = {str(folder / 'state')!r}\nc.Broker.simulate = {_GPUS!r}\n"
        )
        command = [sys.executable, "-c", _COMMAND, "broker", "--config", str(config)]
        with subprocess.Popen([*command, "--socket", str(path)]) as process:
            try:
                _wait_for(path)
                return _measure(process.pid, path, Ledger(folder / this_boot() / "ledger.db"))
            finally:
                process.terminate()


def _wait_for(path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            BrokerClient(path).ask("GET", "/v1/machine")
            return
        except BrokerAway:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _measure(pid: int, path: Path, own: Ledger) -> list[Row]:
    servers = [BrokeredLedger(path) for _ in range(_SERVERS)]
    try:
        own.set_gpus(inventory(_GPUS).gpus)
        for number, server in enumerate(servers):
            with _another_user(number, server):
                _claim(server, f"{number}-0")
            for kernel in range(1, _KERNELS):
                _claim(server, f"{number}-{kernel}")
            for kernel in range(_KERNELS):
                _claim(own, f"{number}-{kernel}")
        idle = IdleShare(datetime.now(timezone.utc) - timedelta(minutes=1))
        _look(servers, idle)
        before = _seconds_of(pid)
        _look(servers, idle)
        busy = 100 * (_seconds_of(pid) - before) / _SECONDS
        alone, brokered = [], []
        for _ in range(_CLAIMS):  # by turns: the machine is noisy
            alone.append(_pair(own))
            brokered.append(_pair(servers[0]))
        return [
            Row("a claim and its release, by the broker", "ms", median(brokered), median(alone),
                median(alone) + 10.0, "at most 5 ms each above a ledger of one's own"),
            Row("the broker's memory, 50 servers", "MB", _memory_of(pid), None, 80.0, "at most 80"),
            Row("its processor time, 50 idle servers", "%", busy, None, 2.0, "at most 2 %"),
        ]  # fmt: skip
    finally:
        for server in servers:
            server.close()
        own.close()


@contextmanager
def _another_user(number: int, server: BrokeredLedger) -> Iterator[None]:
    """Have a server's connections opened by a user of its own, where that is allowed.

    Who connects is what counts, so one process can be many users.
    """
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65000 + number)
        yield
        end = time.monotonic() + _PATIENCE
        while not server.changed() and time.monotonic() < end:  # its stream of events is there
            time.sleep(0.01)
    finally:
        if root:
            os.seteuid(0)


def _look(servers: list[BrokeredLedger], idle: IdleShare) -> None:
    """For some seconds what each server does every two. None of its kernels is used meanwhile."""
    end = time.monotonic() + _SECONDS
    while (begun := time.monotonic()) < end:
        for number, server in enumerate(servers):
            server.follow()
            server.wanted({f"{number}-{kernel}": idle for kernel in range(_KERNELS)})
        time.sleep(max(0.0, begun + _LOOK - time.monotonic()))


def _pair(shares: Shares) -> float:
    """Milliseconds of a claim and its release."""
    begun = perf_counter()
    _claim(shares, "one-more")
    shares.release("one-more")
    return 1000 * (perf_counter() - begun)


def _claim(shares: Shares, kernel: str) -> None:
    claim = shares.claim(kernel, Size.parse("1/64"), this_process(), {"path": "n.ipynb"})
    assert claim.held, claim.reason


def _seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_of(pid: int) -> float:
    """Megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise AssertionError("the system does not tell")
