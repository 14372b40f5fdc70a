"""Clients stay attached through a release and a wake: a page, a console, nbclient."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from servers import Server, run_server, stop_server, until
from waiting import PATIENCE

from jupyter_gpu_share.allocations import State
from jupyter_gpu_share.runtime import Runtime

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = run_server(tmp_path)
    yield running
    stop_server(running)


def test_a_console_and_a_page_share_a_kernel_that_is_released_under_both(
    server: Server, tmp_path: Path
) -> None:
    kernel_id = server.start_kernel("1/2")
    folder = server.folder.parent
    env = {
        **os.environ,
        **{f"JUPYTER_{n}_DIR": str(folder / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")},
        "IPYTHONDIR": str(folder / "ipython"),
    }
    file = folder / "runtime" / f"kernel-{kernel_id}.json"
    console = subprocess.Popen(
        [sys.executable, "-m", "jupyter_console", "--simple-prompt", "--existing", str(file)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert console.stdin is not None
    marks = tmp_path / "marks"

    def mark(name: str) -> str:
        return f"open({str(marks)!r}, 'a').write({name!r} + ' ')"

    def marked(*names: str) -> bool:
        return marks.exists() and marks.read_text().split() == list(names)

    def typed(text: str) -> None:
        assert console.stdin is not None
        console.stdin.write(text + "\n")
        console.stdin.flush()

    def until_marked(*names: str) -> None:
        until(lambda: marked(*names), f"{names} ran")

    try:
        typed(f"x = object(); n = id(x); {mark('console')}")
        until_marked("console")
        server.run_cell(kernel_id, mark("page"))
        until_marked("console", "page")
        release = f"gpu-share/allocations/{kernel_id}/release"
        assert server.ok(release, "POST")["state"] == "released"
        typed(f"assert id(x) == n; {mark('again')}")
        until_marked("console", "page", "again")
        server.wait_for(kernel_id, "active")
        server.run_cell(kernel_id, "1")
        assert server.ok(release, "POST")["state"] == "released"
        assert server.run_cell(kernel_id, f"print(id(x) == n); {mark('last')}") == "True"
        until_marked("console", "page", "again", "last")
        typed("exit(keep_kernel=True)")
        console.communicate(timeout=PATIENCE)
        assert server.ok(f"api/kernels/{kernel_id}")["id"] == kernel_id
    finally:
        console.kill()
        console.communicate()


@pytest.mark.usefixtures("one_gpu")
async def test_nbclient_goes_on_after_its_share_came_back() -> None:
    env = {**os.environ, "JUPYTER_GPU_SHARE_SIZE": "1/2"}
    manager = AsyncKernelManager(kernel_name="python3")
    await asyncio.wait_for(manager.start_kernel(env=env), PATIENCE)
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    try:
        await asyncio.wait_for(client.wait_for_ready(timeout=PATIENCE), PATIENCE)
        book = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_code_cell("x = [1]; n = id(x)"),
                nbformat.v4.new_code_cell("x.append(2); print(x, id(x) == n)"),
            ]
        )
        runner = NotebookClient(book, km=manager, timeout=PATIENCE)
        runner.kc = client
        await runner.async_execute_cell(book.cells[0], 0)
        await Runtime.instance().release(manager.kernel_id, lose_variables=False)
        row = Runtime.instance().table.get(manager.kernel_id)
        assert row is not None
        assert row.state is State.RELEASED
        await runner.async_execute_cell(book.cells[1], 1)
        assert book.cells[1].outputs[0]["text"] == "[1, 2] True\n"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
