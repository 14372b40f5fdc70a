"""The command, run as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.auth import passwd
from servers import TOKEN, Server, run_server, stop_server
from waiting import PATIENCE

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
GIB = 2**30


class Shell:
    """Runs the command in folders of its own."""

    def __init__(self, folder: Path, simulate: str = "1xA100-80GB") -> None:
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("JUPYTER_GPU")},
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
            "IPYTHONDIR": str(folder / "ipython"),
            **({"JUPYTER_GPU_SHARE_SIMULATE": simulate} if simulate else {}),
        }
        self.folder = folder

    def run(self, *arguments: str, rc: int = 0) -> str:
        """What it printed; errors where it is to fail."""
        done = subprocess.run(
            [str(BIN / "jupyter"), "gpu-share", *arguments],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == rc, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stderr if rc else done.stdout

    def json(self, *arguments: str) -> Any:
        """What it printed with ``--json``."""
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = run_server(tmp_path_factory.mktemp("cli"), "--GpuShareProvisioner.queue_patience=1.5")
    yield found
    stop_server(found)


@pytest.fixture
def at_server(server: Server) -> Iterator[tuple[Shell, Server]]:
    yield Shell(server.folder.parent), server
    for kernel in server.ok("api/kernels"):
        server.fetch(f"api/kernels/{kernel['id']}", "DELETE")


def test_help_is_quick_and_imports_no_engine(shell: Shell) -> None:
    assert "doctor" in shell.run("--help")
    code = (
        "import sys; from jupyter_gpu_share.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not [m for m in sys.modules if 'engines' in m or 'pynvml' in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE, capture_output=True)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["resize", "x"], ["keep", "k", "soon"]])
def test_wrong_arguments(shell: Shell, arguments: list[str]) -> None:
    assert "usage" in shell.run(*arguments, rc=2)


def test_sizes(shell: Shell) -> None:
    text = shell.run("sizes")
    assert "1/4 (default)  20 GiB  Quarter" in text
    rows = shell.json("sizes")
    assert [row["size"] for row in rows] == ["1/4", "1/2", "1", "0"]
    assert all(row["available"] for row in rows)


def test_the_administrators_sizes_are_shown(shell: Shell) -> None:
    config = shell.folder / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text(
        'c.SizePolicy.offered = [{"size": "10GiB", "name": "Small"}]\n'
    )
    assert [row["size"] for row in shell.json("sizes")] == ["10GiB"]


def test_without_a_gpu(tmp_path: Path) -> None:
    shell = Shell(tmp_path, simulate="")
    assert "No NVIDIA GPU was found" in shell.run("list")
    assert [row["available"] for row in shell.json("sizes")] == [False, False, False, True]
    assert shell.run("sizes").count("No NVIDIA GPU was found") == 1
    findings = _doctor(shell)
    (error,) = [row for row in findings if row["level"] == "error"]
    assert "No NVIDIA GPU was found" in error["what"]
    assert "JUPYTER_GPU_SHARE_SIMULATE=2xA100-80GB jupyter lab" in error["fix"]
    # Nothing else on such a machine is wrong, and nothing of MPS is said.
    assert "warning" not in {row["level"] for row in findings}
    assert "MPS" not in json.dumps(findings)
    assert "start kernels as without this package" in json.dumps(findings)


def test_doctor(shell: Shell) -> None:
    text = shell.run("doctor")
    assert "GPUs are simulated" in text
    assert "Jupyter finds the kernel provisioner" in text
    assert "→" in text
    assert "MPS" not in text  # which is of real GPUs
    levels = {row["level"] for row in shell.json("doctor")}
    assert "error" not in levels


def test_a_damaged_ledger_is_said_and_not_hidden(shell: Shell) -> None:
    shell.run("list")
    (ledger,) = (shell.folder / "data" / "gpu-share").glob("*/simulated-*.db")
    ledger.write_bytes(b"nonsense" * 1000)
    assert "is damaged; end all kernels" in shell.run("list", rc=1)
    (error,) = [row for row in _doctor(shell) if row["level"] == "error"]
    assert error["what"].endswith(" is damaged.")
    assert error["fix"].startswith("End all kernels")


def _doctor(shell: Shell) -> Any:
    done = subprocess.run(
        [str(BIN / "jupyter"), "gpu-share", "doctor", "--json"],
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    return json.loads(done.stdout)


def test_an_empty_list(shell: Shell) -> None:
    assert "No kernel has a share of a GPU." in shell.run("list")
    assert "0    A100-80GB (simulated)  80 GiB  80 GiB  0" in shell.run("list")
    assert shell.json("list") == []


def test_install_and_remove(shell: Shell) -> None:
    done = shell.json("install", "--user")
    assert done["changed"] == [f"python3-gpu-{s}" for s in ("1-4", "1-2", "1", "0")]
    again = shell.json("install", "--user", "--size", "1/4")
    assert again["changed"] == ["python3-gpu-1-4"]
    command = [str(BIN / "jupyter"), "kernelspec", "list", "--json"]
    listed = subprocess.run(
        command, env=shell.env, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    spec = json.loads(listed.stdout)["kernelspecs"]["python3-gpu-1-4"]["spec"]
    assert spec["display_name"] == "Python 3 (ipykernel) · GPU 1/4"
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"size": "1/4"}
    assert spec["metadata"]["supported_encryption"] == ["curve"]
    assert len(shell.json("install", "--remove")["changed"]) == 4
    assert shell.json("install", "--remove")["changed"] == []


def test_install_from_a_kernel_that_is_not_there(shell: Shell) -> None:
    assert "There is no kernelspec 'julia'. There are: " in shell.run(
        "install", "--user", "--kernel", "julia", rc=1
    )
    assert "more than one GPU; the largest size here is 1" in shell.run(
        "install", "--user", "--size", "3/2", rc=1
    )


def test_list_shows_what_servers_run(at_server: tuple[Shell, Server]) -> None:
    shell, server = at_server
    first, second = server.start_kernel("3/4"), server.start_kernel("3/4")
    rows = {row["kernel_id"]: row for row in shell.json("list")}
    assert set(rows[first]) == set(server.ok(f"gpu-share/allocations/{first}"))
    assert rows[first]["share"]["memory_bytes"] == 60 * GIB
    assert rows[second]["queue"] == {"position": 1, "of": 1}
    text = shell.run("list")
    assert "60 GiB of A100-80GB (simulated)  0  " in text
    assert "queued (1 of 1)" in text
    assert "80 GiB  20 GiB  1" in text


def test_resize(at_server: tuple[Shell, Server]) -> None:
    shell, server = at_server
    kernel = server.start_kernel("1/4")
    assert shell.json("resize", kernel[:8], "1/2")["size"] == "1/2"
    row = server.wait_for(kernel, "active")
    assert (row["size"], row["share"]["memory_bytes"]) == ("1/2", 40 * GIB)
    server.run_cell(kernel, "numbers = (n for n in range(3))")
    assert shell.json("resize", kernel[:8], "1/4")["size"] == "1/4"
    assert server.run_cell(kernel, "print(next(numbers))") == "0"
    refused = shell.run("resize", kernel[:8], "0", rc=1)
    assert "into a new process, but not: generator `numbers`" in refused
    assert "nothing was changed" in refused
    assert server.ok(f"gpu-share/allocations/{kernel}")["size"] == "1/4"
    assert shell.json("resize", kernel[:8], "0", "--lose-variables")["size"] == "0"
    server.wait_for(kernel, "active")
    assert "more than one GPU" in shell.run("resize", kernel[:8], "3/2", "--lose-variables", rc=1)
    assert "No Jupyter server of yours runs a kernel" in shell.run("resize", "zzz", "1/2", rc=1)


def test_release_wake_and_keep(at_server: tuple[Shell, Server]) -> None:
    shell, server = at_server
    kernel = server.start_kernel("1/4")
    assert "The variables are kept" in shell.run("release", kernel)
    assert shell.json("release", kernel, "--lose-variables")["state"] == "released"
    shell.run("wake", kernel)
    server.wait_for(kernel, "active")
    assert shell.json("keep", kernel, "30")["keep_until"] is not None
    assert shell.json("keep", kernel, "0")["keep_until"] is None
    assert "Nothing is lost" in shell.run("kept", kernel)
    assert shell.json("kept", kernel, "--forget")["aside"] == []


def test_a_name_that_fits_several(at_server: tuple[Shell, Server]) -> None:
    shell, server = at_server
    one = server.start_kernel("1/4", kernel_id="33333333-3333-4333-8333-333333333333")
    server.start_kernel("1/4", kernel_id="33333333-4444-4333-8333-333333333333")
    assert "fits several kernels" in shell.run("wake", "33333333", rc=1)
    shell.run("keep", one, "1")


def test_a_server_with_a_password_is_not_taken_for_one_without_kernels(tmp_path: Path) -> None:
    hashed = f"--PasswordIdentityProvider.hashed_password={passwd('secret')}"
    server = run_server(tmp_path, "--IdentityProvider.token=", hashed)
    try:
        shell = Shell(tmp_path)
        says = (
            "did not let this command in (403). It has told no token: start it with JUPYTER_TOKEN"
        )
        assert says in shell.run("release", "2085b3ae", rc=1)
        assert says in shell.run("list")
    finally:
        stop_server(server)


def test_a_time_that_is_none_changes_nothing(at_server: tuple[Shell, Server]) -> None:
    shell, server = at_server
    kernel = server.start_kernel("1/4")
    until = shell.json("keep", kernel, "30")["keep_until"]
    for minutes in ("nan", "inf", "-5", "1e12"):
        assert "is no number of minutes" in shell.run("keep", kernel, minutes, rc=2)
    assert server.ok(f"gpu-share/allocations/{kernel}")["keep_until"] == until


def test_demo(tmp_path: Path) -> None:
    shell = Shell(tmp_path, simulate="")
    text = shell.run("demo", "--output", str(tmp_path / "out"))
    assert "SIMULATED" in text
    assert "queued (1 of 1)" in text
    assert "Three kernels shared one GPU" in text
    assert "refused: OutOfMemoryError" in text
    assert len(list((tmp_path / "out").glob("*.ipynb"))) == 3
    assert len(list((tmp_path / "out").glob("*.log"))) == 3  # nothing of it is among what is told


def test_snapshot_needs_no_server_and_no_setting_up(shell: Shell) -> None:
    script, kept = shell.folder / "train.py", shell.folder / "state.kept"
    script.write_text("rows = [1, 2]; again = {'rows': rows}; numbers = iter([3])\n")
    assert "usage: jupyter gpu-share snapshot" in shell.run("snapshot", "--help")
    shell.run("snapshot", "save", str(kept), "train.py")
    look = "import os; rows.append(3); print(again['rows'], next(numbers), os.environ.get('A'))"
    words = ("load", str(kept), "-c", look)
    assert shell.run("snapshot", *words) == "[1, 2, 3] 3 None\n"
    assert shell.run("snapshot", "--python", sys.executable, *words) == "[1, 2, 3] 3 None\n"
    assert "cannot be run" in shell.run("snapshot", "--python", "/no/such", "check", "a", rc=1)
    assert "needs the path" in shell.run("snapshot", "--python", rc=2)
    kept.chmod(0o666)
    assert "others can write to it" in shell.run("snapshot", "check", str(kept), rc=1)
