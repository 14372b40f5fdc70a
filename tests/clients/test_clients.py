"""Clients as people use them, each running a cell on the share that was asked for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
import pytest
from servers import connected, run_server, stop_server
from waiting import PATIENCE

pytestmark = pytest.mark.slow

GIB = 2**30
CODE = "import os; print('bytes', os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'])"
BIN = Path(sys.executable).parent


def environment(folder: Path, **more: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_GPU")}
    return {
        **env,
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_GPU_SHARE_SIMULATE": "1xA100-80GB",
        **more,
    }


def run(command: list[str], env: dict[str, str], typed: str = "") -> str:
    done = subprocess.run(
        command, env=env, input=typed, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def specs(tmp_path: Path) -> dict[str, str]:
    """An environment in which the kernelspecs of the offered sizes are installed."""
    env = environment(tmp_path)
    run([str(BIN / "jupyter"), "gpu-share", "install", "--user"], env)
    return env


def notebook(folder: Path) -> Path:
    file = folder / "in.ipynb"
    cells = [
        nbformat.v4.new_code_cell("factor = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"{CODE}\nprint('factor', factor)"),
    ]
    about = {"language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), file)
    return file


def said(file: Path) -> str:
    found = nbformat.read(file, as_version=4)
    return "".join(o.get("text", "") for cell in found.cells for o in cell.get("outputs", []))


def test_console(specs: dict[str, str]) -> None:
    command = [str(BIN / "jupyter"), "console", "--simple-prompt", "--kernel"]
    text = run([*command, "python3-gpu-1-4"], specs, f"{CODE}\nexit()\n")
    assert f"bytes {20 * GIB}" in text


def test_papermill_with_a_kernelspec(specs: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    command = [str(BIN / "papermill"), str(notebook(tmp_path)), str(out)]
    run([*command, "-k", "python3-gpu-1-2", "-p", "factor", "7"], specs)
    assert f"bytes {40 * GIB}\nfactor 7" in said(out)


def test_papermill_with_the_environment(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    env = environment(
        tmp_path,
        JUPYTER_DEFAULT_PROVISIONER_NAME="gpu-share-provisioner",
        JUPYTER_GPU_SHARE_SIZE="10GiB",
    )
    run([str(BIN / "papermill"), str(notebook(tmp_path)), str(out), "-k", "python3"], env)
    assert f"bytes {10 * GIB}" in said(out)


def test_nbclient(specs: dict[str, str], tmp_path: Path) -> None:
    file = notebook(tmp_path)
    command = [str(BIN / "jupyter"), "execute", "--inplace", "--kernel_name=python3-gpu-1"]
    run([*command, str(file)], specs)
    assert f"bytes {80 * GIB}" in said(file)


async def test_a_session_of_a_plain_server_with_a_hint_in_the_notebook(tmp_path: Path) -> None:
    server = run_server(tmp_path)
    try:
        file = server.folder / "hint.ipynb"
        content = nbformat.v4.new_notebook(metadata={"jupyter_gpu_share": {"size": "1/8"}})
        nbformat.write(content, file)
        wish = {
            "path": "hint.ipynb",
            "name": "hint.ipynb",
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        session = server.ok("api/sessions", "POST", wish)
        kernel = session["kernel"]["id"]
        assert await cell(server.url, kernel, CODE) == f"bytes {10 * GIB}\n"
        row = server.ok(f"gpu-share/allocations/{kernel}")
        assert (row["size"], row["path"]) == ("1/8", "hint.ipynb")
    finally:
        stop_server(server)


async def cell(url: str, kernel: str, code: str) -> str:
    """Run a cell over the websocket, as a page does."""
    sent = uuid4().hex
    message: dict[str, Any] = {
        "header": {
            "msg_id": sent,
            "msg_type": "execute_request",
            "session": uuid4().hex,
            "username": "",
            "version": "5.3",
            "date": "2026-01-01T00:00:00Z",
        },
        "parent_header": {},
        "metadata": {},
        "channel": "shell",
        "content": {"code": code, "silent": False, "allow_stdin": False},
    }
    text = ""
    async with connected(url, f"api/kernels/{kernel}/channels") as socket:
        await socket.write_message(json.dumps(message))
        while True:
            found = await asyncio.wait_for(socket.read_message(), PATIENCE)
            assert isinstance(found, str)
            answer = json.loads(found)
            if answer["parent_header"].get("msg_id") != sent:
                continue
            if answer["msg_type"] == "stream":
                text += answer["content"]["text"]
            if answer["content"].get("execution_state") == "idle":
                return text
