"""A kernel's process: how it starts, ends and is ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE, eventually

from jupyter_gpu_share.engines.base import Connection
from jupyter_gpu_share.engines.local import _process
from jupyter_gpu_share.engines.local._process import (
    KernelProcess,
    choose_transport,
    make_connection,
)
from jupyter_gpu_share.errors import KernelStartError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "kernel"
    own.mkdir()
    return own


def connection(folder: Path, transport: str = "tcp", *, encrypt: bool = False) -> Connection:
    return make_connection(
        folder, transport, key=b"secret", signature_scheme="hmac-sha256", encrypt=encrypt
    )


async def start(folder: Path, code: str, **options: object) -> KernelProcess:
    argv = [sys.executable, "-c", code, "{connection_file}"]
    return await KernelProcess.start(
        argv, dict(os.environ), options, connection=connection(folder), folder=folder
    )


IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python", *IPYKERNEL], "ipc"),
        (["/opt/env/bin/python3.12", "-Xfrozen_modules=off", *IPYKERNEL], "ipc"),
        (["python3.14t", *IPYKERNEL], "ipc"),
        (["ipython3", "kernel", "-f", "ipykernel.json"], "ipc"),
        (["pypy3.10", *IPYKERNEL], "ipc"),
        (["python", "-m", "other_kernel"], "tcp"),
        (["docker", "run", "image", "python", *IPYKERNEL], "tcp"),
        (["conda", "run", "-n", "x", "python", *IPYKERNEL], "tcp"),
        (["bash", "-c", "python -m ipykernel_launcher"], "tcp"),
        (["/ipykernel/python-in-a-container", *IPYKERNEL], "tcp"),
        ([], "tcp"),
    ],
)
def test_sockets_in_a_folder_are_for_kernels_that_see_it(argv: list[str], expected: str) -> None:
    assert choose_transport(argv, Path("/tmp/kernel")) == expected


def test_a_path_that_is_too_long_for_sockets(tmp_path: Path) -> None:
    argv = ["python", *IPYKERNEL]
    fits = Path("/" + "x" * 97)  # and two characters for the sockets
    assert choose_transport(argv, fits) == "ipc"
    assert connection(fits, "ipc").ip == f"{fits}/s"
    long = Path("/" + "x" * 98)
    assert choose_transport(argv, long) == "tcp"
    with pytest.raises(KernelStartError, match=r"101 characters.*c\.LocalEngine\.transport"):
        connection(long, "ipc")


async def test_the_connection_file_is_for_the_owner_only(folder: Path) -> None:
    process = await start(folder, "import time; time.sleep(99)")
    file = folder / "connection.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    content = json.loads(file.read_text())
    assert content["key"] == "secret"
    assert {"shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"} <= set(content)
    await process.end()
    assert not folder.exists()


@pytest.mark.parametrize("pidfd", [True, False])
async def test_the_end_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pidfd: bool
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    process = await start(folder, "raise SystemExit(7)")
    ended = await asyncio.wait_for(process.wait(), PATIENCE)
    assert ended.code == 7
    assert "exit code 7" in ended.reason
    await process.end()


async def test_a_signal_reaches_the_whole_group_and_is_named(folder: Path) -> None:
    code = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']);"
        "open(sys.argv[1] + '.child', 'w').write(str(child.pid)); time.sleep(99)"
    )
    process = await start(folder, code)
    mark = folder / "connection.json.child"
    child = int(await eventually(lambda: mark.exists() and mark.read_text(), "the child runs"))
    process.signal(signal.SIGTERM)
    ended = await asyncio.wait_for(process.wait(), PATIENCE)
    assert ended.code == -signal.SIGTERM
    assert "SIGTERM" in ended.reason
    await eventually(lambda: _gone(child), "the child ended with its group")
    process.signal(signal.SIGTERM)  # nothing is there any more: no error
    await process.end()


async def test_a_command_that_cannot_run(folder: Path) -> None:
    with pytest.raises(KernelStartError, match="no-such-thing") as caught:
        await KernelProcess.start(
            ["/nowhere/no-such-thing"], {}, {}, connection=connection(folder), folder=folder
        )
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert not folder.exists()


async def test_a_process_does_not_outlive_a_cancelled_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    started: list[subprocess.Popen[bytes]] = []
    real = _process.launch_kernel

    def slow(*args: object, **kwargs: object) -> object:
        process = real(*args, **kwargs)  # type: ignore[arg-type]
        started.append(process)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PATIENCE)
        return process

    monkeypatch.setattr(_process, "launch_kernel", slow)
    task = asyncio.ensure_future(start(folder, "import time; time.sleep(99)"))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started[0].returncode is not None
    assert not folder.exists()


def test_ports_differ_and_keys_are_text(folder: Path) -> None:
    plain, sealed = connection(folder), connection(folder, encrypt=True)
    assert len(set(plain.ports.values())) == 5
    assert plain.curve_publickey is None
    assert isinstance(sealed.curve_publickey, str)
    assert sealed.curve_secretkey is not None
    assert sealed.curve_secretkey not in repr(sealed)
    assert "secret'" not in repr(plain)


def test_a_path_too_long_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(KernelStartError, match="TMPDIR"):
        connection(tmp_path / ("x" * 100), "ipc")


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"
