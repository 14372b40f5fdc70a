"""The demonstration: three kernels on one GPU, two at once and one that waits for its turn."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from traitlets.config import Config

from ..allocations import Allocation, State
from ..errors import EngineError, NoGpuError
from ._tables import allocations_table

if TYPE_CHECKING:
    from ..runtime import Runtime

_SIMULATE = "JUPYTER_GPU_SHARE_SIMULATE"
_SIMULATED = "1xA100-80GB"
#: A demonstration that takes longer than this many seconds has gone wrong.
_PATIENCE = 240.0


@dataclass(frozen=True)
class _Part:
    """A notebook that is run on a size."""

    name: str
    size: str


async def demo(output: str | None, config: Callable[[], Config]) -> int:
    """Run the demonstration; the command's exit code.

    Parameters
    ----------
    output: folder for the notebooks that were run; ``build/demo`` in a checkout, else a
        temporary one.
    config: reads the configuration.

    Raises
    ------
    GpuShareError: it cannot be shown here; says what is missing.
    """
    if find_spec("nbclient") is None:
        raise EngineError("The demo needs nbclient: pip install 'jupyter-gpu-share[demo]'")
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "gpu-share-provisioner"
    runtime, gpus = await _gpus(config)
    folder = _folder(output)
    first = _Part("first", "1/2")
    second = _Part("second", "1/4")
    # There is room for the third only when the first, or the second, has ended.
    third = _Part("third", "1/2" if gpus == 1 else f"{gpus}x1")
    begun = monotonic()
    watcher = _Watcher(runtime)
    try:
        playing = _play(first, second, third, folder, runtime)
        await asyncio.wait_for(playing, _PATIENCE)
    except asyncio.TimeoutError as error:
        raise EngineError(f"The demo did not end within {_PATIENCE:g} s.") from error
    finally:
        watcher.close()
    left = [row for row in await runtime.machine() if row.kernel_id in watcher.kernels]
    if left or not watcher.queued:
        raise EngineError("The demo did not show what it should: a share is left, or none waited.")
    print(
        f"\nThree kernels shared {'one GPU' if gpus == 1 else f'{gpus} GPUs'} in "
        f"{monotonic() - begun:.0f} s: two side by side, each with its own memory, and one that "
        f"waited and got its turn. All shares are back.\nThe notebooks as they ran: {folder}"
    )
    return 0


async def _gpus(config: Callable[[], Config]) -> tuple[Runtime, int]:
    """The runtime, and how many GPUs it has; simulated ones where this machine has none."""
    from ..runtime import Runtime

    for simulate in (False, True):
        if simulate:
            Runtime.clear_instance()
            os.environ[_SIMULATE] = _SIMULATED
        runtime = Runtime.instance(config())
        with suppress(NoGpuError):
            gpus = await runtime.capacity()
            if gpus[0].simulated:
                print(
                    f"The GPU is SIMULATED ({gpus[0].model}): shares, limits and the queue are "
                    "real, its memory is only counted.\n"
                )
            return runtime, len(gpus)
    raise EngineError("No GPU could be simulated; unset LocalEngine.simulate in the configuration.")


async def _play(first: _Part, second: _Part, third: _Part, folder: Path, runtime: Runtime) -> None:
    """Two at once; the third when both hold their shares."""
    tasks = [asyncio.create_task(_run(part, folder)) for part in (first, second)]
    try:
        while sum(row.state is State.ACTIVE for row in runtime.table.all()) < 2:
            await asyncio.wait(tasks, timeout=0.05)
            if any(task.done() for task in tasks):
                break
        tasks.append(asyncio.create_task(_run(third, folder)))
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _run(part: _Part, folder: Path) -> None:
    """Run the notebook on a share, and keep it as it ran."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.reads(_source(), as_version=4)
    client = NotebookClient(notebook, timeout=120, startup_timeout=200, kernel_name="python3")
    # The name stands in the table of allocations.
    env = {
        **os.environ,
        "JUPYTER_GPU_SHARE_SIZE": part.size,
        "JPY_SESSION_NAME": f"{part.name}.ipynb",
    }
    try:
        await client.async_execute(env=env)
    except CellExecutionError as error:
        raise EngineError(
            f"The {part.name} notebook failed: {error.ename}: {error.evalue}"
        ) from error
    finally:
        nbformat.write(notebook, folder / f"{part.name}.ipynb")
    for line in _said(notebook):
        print(f"  {part.name}: {line}")


def _said(notebook: Any) -> list[str]:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [line for out in outputs for line in out.get("text", "").splitlines()]


def _source() -> str:
    """The notebook: from the checkout, or as it was installed."""
    for place in (Path(__file__).parents[2] / "binder", files("jupyter_gpu_share.cli")):
        file = place / "demo.ipynb"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise EngineError("The demo's notebook is missing; install jupyter-gpu-share again.")


def _folder(output: str | None) -> Path:
    if output is None and (Path(__file__).parents[2] / "pyproject.toml").is_file():
        output = "build/demo"
    folder = Path(output or tempfile.mkdtemp(prefix="gpu-share-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    return folder


class _Watcher:
    """Prints the table of allocations whenever a kernel changes its state."""

    def __init__(self, runtime: Runtime) -> None:
        self.kernels: set[str] = set()
        #: True once a kernel waited in the queue.
        self.queued = False
        self._table = runtime.table
        self._begun = monotonic()
        self._shown = ""
        self._stop = runtime.table.listen(self._note)

    def close(self) -> None:
        """Stop printing."""
        self._stop()

    def _note(self, row: Allocation) -> None:
        self.kernels.add(row.kernel_id)
        if row.state is State.QUEUED and row.queue is None:
            return  # it has only just come
        self.queued |= row.queue is not None
        rows = [one for one in self._table.all() if one.state is not State.ENDED]
        text = allocations_table([one.to_json() for one in rows])
        if rows and text != self._shown:
            self._shown = text
            print(f"\n{monotonic() - self._begun:5.1f} s\n{text}", flush=True)
