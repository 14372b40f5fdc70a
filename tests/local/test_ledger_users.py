"""One ledger for several users, in a folder that they have in common."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounts import needs_mounts
from users import ANN, BOB, GROUP
from waiting import PATIENCE

_USER = """
import os, sys
from pathlib import Path
from jupyter_gpu_share.engines.local._gpu import Gpu
from jupyter_gpu_share.engines.local._ledger import Ledger
from jupyter_gpu_share.engines._processes import this_process
from jupyter_gpu_share.size import Size

folder, group, user = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.umask(0o077)
os.setgroups([group])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
ledger, me = Ledger(folder / "ledger.db"), this_process()
ledger.set_gpus([Gpu("G0", "A100", 0, 80 * 2**30)])
for line in sys.stdin:
    verb, _, size = line.strip().partition(" ")
    if verb == "claim":
        claim = ledger.claim(f"of {user}", Size.parse(size), me, {})
    else:
        claim = ledger.turn(f"of {user}")
    print("holds" if claim.held else "waits", flush=True)
"""

_HIDE = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'


class User:
    """A process of a user; it does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, text: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, f"no answer to {text!r}"
        return self.process.stdout.readline().strip()


@contextmanager
def user(number: int, folder: Path, *prefix: str) -> Iterator[User]:
    command = [*prefix, sys.executable, "-c", _USER, str(folder), str(GROUP), str(number)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield User(process)
        finally:
            process.kill()
            process.wait(PATIENCE)


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
def test_users_wait_for_each_other(folder: Path, hidden: bool) -> None:
    """Also where the system shows nobody the processes of others."""
    prefix: tuple[str, ...] = ()
    if hidden:
        needs_mounts()
        prefix = ("unshare", "--mount", "sh", "-c", _HIDE, "sh")
    with user(BOB, folder, *prefix) as bob:
        with user(ANN, folder, *prefix) as ann:
            assert ann.ask("claim 3/4") == "holds"
            assert bob.ask("claim 3/4") == "waits"
            assert ann.ask("turn") == "holds"
            assert bob.ask("turn") == "waits"
            ann.process.kill()
            os.waitid(os.P_PID, ann.process.pid, os.WEXITED | os.WNOWAIT)
            # Not reaped yet. Where its state is hidden too, it counts as alive until it is.
            assert bob.ask("turn") == ("waits" if hidden else "holds")
        assert bob.ask("turn") == "holds", "the dead hold nothing"
