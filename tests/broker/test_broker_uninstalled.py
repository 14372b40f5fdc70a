"""The commands of docs/shared-machine.md set a machine up, and leave nothing of it.

There is no systemd here: a stand-in for ``systemctl`` runs what the unit says. The package is not
installed from PyPI: its command in /opt is that of these sources.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from installed import ROOT
from machines import BOB, COMMAND, Machine, Person, plain_environment, running_machine
from servers import stop_server, until
from waiting import PATIENCE

pytestmark = pytest.mark.slow

#: Folders of the system that are the test's own inside of the machine.
MOUNTS = """
mount -t tmpfs tmpfs /mnt
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
umount -l /mnt
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /opt
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mkdir -p /etc/systemd/system
"""
INSTALLED = "/opt/jupyter-gpu-share/bin"
#: Starts what the unit says, and ends it; the socket is the broker's own here, not systemd's.
SYSTEMCTL = """#!/bin/sh
unit=/etc/systemd/system/jupyter-gpu-share.service
case "$1" in
enable)
    test -e "$unit" -a -e /etc/systemd/system/jupyter-gpu-share.socket || exit 1
    mkdir -p -m 700 "/var/lib/$(sed -n 's/^StateDirectory=//p' "$unit")"
    setsid $(sed -n 's/^ExecStart=//p' "$unit") > /dev/null 2>&1 &
    echo $! > /run/broker.pid ;;
disable)
    kill "$(cat /run/broker.pid)"
    while kill -0 "$(cat /run/broker.pid)" 2> /dev/null; do sleep 0.05; done
    rm /run/broker.pid ;;
daemon-reload) ;;
*) exit 1 ;;
esac
"""
SUDO = '#!/bin/sh\nexec "$@"\n'


def commands(heading: str) -> list[str]:
    """The blocks of commands below a heading, in their order."""
    text = (ROOT / "docs" / "shared-machine.md").read_text("utf-8")
    part = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    assert found, heading
    return found


class Administrator:
    """Root of the machine, whose ``sudo``, ``systemctl`` and ``jupyter`` are the test's."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.tools = machine.folder / "tools"
        self.tools.mkdir()
        command = f'#!/bin/sh\nexec {COMMAND[0]} -c "{COMMAND[2]}" "$@"\n'
        self._tool("systemctl", SYSTEMCTL)
        self._tool("sudo", SUDO)
        self._tool("jupyter-gpu-share", command)
        self.run(MOUNTS)

    def install(self) -> None:
        """Stands for pip."""
        shared = "/opt/jupyter-gpu-share/share/jupyter-gpu-share"
        self.run(f"mkdir -p {INSTALLED} {shared} && cp -r {ROOT}/etc {shared}/")
        self.run(f"cp {self.tools}/jupyter-gpu-share {INSTALLED}/")

    def _tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def run(self, script: str) -> str:
        """What a script printed, each command of which has to succeed."""
        env = plain_environment()
        env |= {"PATH": f"{self.tools}:{env['PATH']}", "JUPYTER_GPU_SHARE_SIMULATE": "1xA100-80GB"}
        inside = list(self.machine.inside)
        inside[inside.index(f"--wd={self.machine.folder}")] = f"--wd={ROOT}"
        return _ran([*inside, "sh", "-e", "-c", script], env)


def _ran(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def machine() -> Iterator[Machine]:
    with running_machine() as made:
        yield made


def test_what_was_set_up_leaves_nothing(machine: Machine) -> None:
    root, bob = Administrator(machine), Person(machine, BOB)
    folders = f"/etc /opt /run /var/lib /var/tmp {bob.home}"
    look = f"find {folders} -xdev -name '*gpu*share*'; ls -d /tmp/gpu-share-{bob.uid} || true"
    # What /run/reached has is of these mounts.
    find = f"({look}) 2> /dev/null | grep -v ^/run/reached || true"
    assert root.run(find).split() in ([], [f"/tmp/gpu-share-{bob.uid}"])
    root.install()
    root.run("mkdir /etc/jupyter-gpu-share")
    root.run("echo 'c.Broker.patience = 60' > /etc/jupyter-gpu-share/broker_config.py")
    (setting_up,) = commands("Set it up")[:1]
    lines = [line for line in setting_up.splitlines() if "venv" not in line and "pip" not in line]
    assert len(lines) == 3, "all but what needs PyPI"
    root.run("\n".join(lines[:2]))
    until(lambda: machine.reachable, "the broker answers")
    assert "The broker of this machine keeps the shares" in root.run(lines[2])

    with ExitStack() as stack:
        server = bob.server("server")
        stack.callback(stop_server, server)
        _ran(bob.command("jupyter", "gpu-share", "install", "--user"), bob.environment())
        kernel = server.start_kernel("1/2")
        server.run_cell(kernel, "x = 42")
        server.ok(f"gpu-share/allocations/{kernel}/release", "POST", {})
        server.wait_for(kernel, "released")
        assert server.run_cell(kernel, "print(x)") == "42"
    left = set(root.run(find).split())
    assert {"/opt/jupyter-gpu-share", "/var/lib/jupyter-gpu-share-broker"} <= left
    assert "/etc/jupyter-gpu-share" in left
    assert {f"{bob.home}/.local/share/jupyter/gpu-share", "/run/jupyter-gpu-share"} <= left

    of_users, of_root = commands("Uninstall")
    _ran(bob.command("sh", "-e", "-c", of_users), bob.environment())
    root.run(of_root)
    assert root.run(find).split() == []
    specs = bob.home / ".local" / "share" / "jupyter" / "kernels"
    assert not specs.exists() or list(specs.iterdir()) == []
    assert not machine.reachable
