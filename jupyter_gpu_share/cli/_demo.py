"""The demonstration: three kernels on one GPU, two at once and one that waits for its turn."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpecManager
from traitlets.config import Config

from .._text import one_line
from .._threads import stopped, to_the_end, within
from ..allocations import Allocation, State
from ..errors import EngineError, NoGpuError
from ._kernelspecs import find
from ._tables import allocations_table, progress

if TYPE_CHECKING:
    from ..engines.base import Capacity
    from ..runtime import Runtime

_KERNEL = "python3"
_SIMULATE = "JUPYTER_GPU_SHARE_SIMULATE"
_SIMULATED = "1xA100-80GB"
#: A demonstration that takes longer than this many seconds has gone wrong; in a cluster the image
#: of the kernels may have to be pulled first.
_PATIENCE, _PATIENCE_WITH_PULL = 240.0, 1200.0
#: Seconds within which ended kernels are gone: a pod takes a moment.
_GONE = 60.0
#: A cluster with more GPUs than these is not filled up only to show its queue.
_OWN_GPUS = 2


@dataclass(frozen=True)
class Part:
    """A notebook that is run on a size."""

    name: str
    size: str


@dataclass(frozen=True)
class Plan:
    """What is run: the first two at once, the third when both hold their shares.

    Attributes
    ----------
    waits: there is room for the third only when the first, or the second, has ended.
    """

    parts: tuple[Part, Part, Part]
    waits: bool


def plan(gpus: Sequence[Capacity], *, local: bool) -> Plan:
    """Sizes for what there is.

    On this machine, and in a cluster of one node with nothing else on its few GPUs, the third
    kernel has to wait. In any other cluster room for it is somebody else's as well.

    Parameters
    ----------
    gpus: none where a cluster does not tell what it has.
    """
    node = {gpu.node for gpu in gpus}
    unused = all(gpu.free_bytes == gpu.memory_bytes for gpu in gpus)
    if local or (len(node) == 1 and unused and len(gpus) <= _OWN_GPUS):
        sizes = ("1/2", "1/4", "1/2" if len(gpus) == 1 else f"{len(gpus)}x1")
        waits = True
    else:
        # Fractions cannot be reckoned where the GPUs are not known.
        sizes = ("1/2", "1/4", "1/4") if gpus else ("8GiB", "4GiB", "4GiB")
        waits = False
    first, second, third = map(Part, ("first", "second", "third"), sizes)
    return Plan((first, second, third), waits)


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
    missing = ["nbclient"] if find_spec("nbclient") is None else []
    if _KERNEL not in KernelSpecManager().find_kernel_specs():
        missing.append("ipykernel")
    if missing:
        raise EngineError(
            f"The demo needs {' and '.join(missing)}: pip install 'jupyter-gpu-share[demo]'"
        )
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "gpu-share-provisioner"
    find(_KERNEL)
    runtime, gpus = await _gpus(config)
    local = runtime.engine_name == "local"
    shown = plan(gpus, local=local)
    folder = _folder(output)
    begun = monotonic()
    watcher = _Watcher(runtime)
    patience = _PATIENCE if local else _PATIENCE_WITH_PULL
    try:
        playing = _play(shown, folder, runtime, patience)
        await within(patience, playing)
    except asyncio.TimeoutError as error:
        raise EngineError(f"The demo did not end within {patience:g} s.") from error
    finally:
        watcher.close()
    seconds = monotonic() - begun
    if await _left(runtime, watcher.kernels) or (shown.waits and not watcher.queued):
        raise EngineError("The demo did not show what it should: a share is left, or none waited.")
    print(f"\n{_summary(shown, len(gpus), seconds)}\nThe notebooks as they ran: {folder}")
    return 0


def _summary(shown: Plan, gpus: int, seconds: float) -> str:
    if not shown.waits:
        return (
            f"Three kernels ran in {seconds:.0f} s on shares of the cluster's GPUs, each with its "
            "own memory. All shares are back."
        )
    return (
        f"Three kernels shared {'one GPU' if gpus == 1 else f'{gpus} GPUs'} in {seconds:.0f} s: "
        "two side by side, each with its own memory, and one that waited and got its turn. All "
        "shares are back."
    )


async def _gpus(config: Callable[[], Config]) -> tuple[Runtime, Sequence[Capacity]]:
    """The runtime, and its GPUs; simulated ones where this machine has none."""
    from ..runtime import Runtime

    runtime = Runtime.instance(config())
    if runtime.engine_name != "local":
        return runtime, await _gpus_of_cluster(runtime)
    for simulate in (False, True):
        if simulate:
            Runtime.clear_instance()
            os.environ[_SIMULATE] = _SIMULATED
            runtime = Runtime.instance(config())
        with suppress(NoGpuError):
            gpus = await runtime.capacity()
            _say_if_simulated(gpus)
            return runtime, gpus
    raise EngineError("No GPU could be simulated; unset LocalEngine.simulate in the configuration.")


async def _gpus_of_cluster(runtime: Runtime) -> Sequence[Capacity]:
    section = runtime.config.get("KubernetesEngine", {})
    image = section.get("image") or ", ".join(section.get("images", {}).values())
    if not image:
        raise EngineError(
            "No image is set for kernels: name one that has ipykernel 7.3 or later, with --image "
            "(make demo: IMAGE=…) or as c.KubernetesEngine.image."
        )
    with progress("Looking at the cluster"):
        gpus = await runtime.capacity()
    engine = await runtime.call(runtime.engine())
    print(f"Cluster: {engine.place}. Kernels are pods of the image {image}.")
    _say_if_simulated(gpus)
    return gpus


def _say_if_simulated(gpus: Sequence[Capacity]) -> None:
    models = ", ".join(sorted({gpu.model for gpu in gpus if gpu.simulated}))
    if models:
        what = "The GPU is" if len(gpus) == 1 else f"The {len(gpus)} GPUs are"
        print(
            f"{what} SIMULATED ({models}): shares, limits and the queue are real, "
            f"{'its' if len(gpus) == 1 else 'their'} memory is only counted.\n"
        )


async def _play(shown: Plan, folder: Path, runtime: Runtime, patience: float) -> None:
    """Two at once; the third when both hold their shares."""
    first, second, third = shown.parts
    tasks = [asyncio.create_task(_run(part, folder, patience)) for part in (first, second)]
    try:
        while sum(row.state is State.ACTIVE for row in runtime.table.all()) < 2:
            await asyncio.wait(tasks, timeout=0.05)
            if any(task.done() for task in tasks):
                break
        tasks.append(asyncio.create_task(_run(third, folder, patience)))
        # A gather would raise what becomes of the notebooks when this is cancelled.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await to_the_end(stopped(*tasks))


async def _run(part: Part, folder: Path, patience: float) -> None:
    """Run the notebook on a share, and keep it as it ran."""
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from ._demo_notebook import DemoNotebook

    notebook = nbformat.reads(_source(), as_version=4)
    # A cell's time includes that in the queue.
    client = DemoNotebook(
        notebook, timeout=int(patience), startup_timeout=int(patience), kernel_name=_KERNEL
    )
    # The name stands in the table of allocations.
    env = {
        **os.environ,
        "JUPYTER_GPU_SHARE_SIZE": part.size,
        "JPY_SESSION_NAME": f"{part.name}.ipynb",
    }
    # What the kernel's process says for itself, at its end too, is nothing of the demo's.
    log = folder / f"{part.name}.log"
    try:
        with log.open("wb") as output:
            await client.async_execute(env=env, stdout=output, stderr=output)
    except CellExecutionError as error:
        raise EngineError(
            f"The {part.name} notebook failed: {error.ename}: {error.evalue}"
        ) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise EngineError(
            f"The {part.name} notebook failed: {one_line(str(error))} Its kernel's log: {log}"
        ) from error
    finally:
        nbformat.write(notebook, folder / f"{part.name}.ipynb")
    for line in _said(notebook):
        print(f"  {part.name}: {line}")


async def _left(runtime: Runtime, kernels: set[str]) -> bool:
    """Whether any of the kernels, which have ended, does not go."""
    end = monotonic() + _GONE
    while any(row.kernel_id in kernels for row in await runtime.machine()):
        if monotonic() > end:
            return True
        await asyncio.sleep(0.1)
    return False


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
