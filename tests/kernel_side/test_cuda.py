"""A process that uses CUDA moves off its GPUs and back: what our code does with each answer.

Unit tests. NVIDIA's module and NVML are FAKES of which a test chooses every answer and state, so
they claim nothing about a driver. Processes and notebooks on one fake driver, through the true
bindings, are in `tests/driver`; what a real one does is tried in `tests/gpu`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sessions import CellError, Session
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

pytestmark = pytest.mark.slow

MIB, GIB = 2**20, 2**30
FAKE = Path(__file__).parent / "fake_cuda"
UUID = "GPU-a"
#: What a server shows of a sentence.
LONGEST = 200

# -- a process with a share ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake NVML."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake NVML library is C, and there is no C compiler (cc)")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", FAKE / "nvml.c"],
        check=True,
        timeout=PATIENCE,
    )
    return folder


class Gpus:
    """The fake GPUs of a test, each of 80 GiB, and what a kernel has of the first one."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.add(UUID)
        self.env = {
            "FAKE_GPU": str(folder),
            "LD_LIBRARY_PATH": str(library),
            "JUPYTER_GPU_SHARE_UUID": UUID,
            "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(20 * GIB),
            "JUPYTER_GPU_SHARE_ISOLATION": "framework",
            "CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"),
        }

    def add(self, uuid: str) -> None:
        (self.folder / uuid).write_text(str(80 * GIB))

    def neighbour(self, nbytes: int, uuid: str = UUID) -> None:
        """Have another process use so much."""
        (self.folder / f"{uuid}.1").write_text(str(nbytes))

    def used(self, pid: int) -> int | None:
        path = self.folder / f"{UUID}.{pid}"
        return int(path.read_text()) if path.exists() else None


#: Runs what it reads line by line, as JSON both ways.
LOOP = """
import json, sys
space = {}
for line in sys.stdin:
    try:
        what, code = json.loads(line)
        said = eval(code, space) if what == "eval" else exec(code, space)
        answer = ["ok", said]
    except BaseException as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer), flush=True)
"""
IMPORTS = """
import gc, os, sys, types
from cuda.bindings import driver
from gpu_share_kernel import cuda, cuda_signs
"""


class Process:
    """A Python with the kernel-side files and the fakes, 2 GiB of it on the GPU."""

    def __init__(self, gpus: Gpus, **env: str) -> None:
        self.gpus = gpus
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", LOOP],
            env={**os.environ, **gpus.env, "PYTHONPATH": f"{PATH}{os.pathsep}{FAKE}", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.do(IMPORTS)
        self.do(f"driver.allocate({2 * GIB})")

    def _ask(self, what: str, code: str) -> tuple[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, code]) + "\n")
        self._process.stdin.flush()
        kind, answer = json.loads(self._process.stdout.readline())
        return kind, answer

    def do(self, code: str) -> None:
        assert self._ask("exec", code) == ("ok", None)

    def get(self, expression: str) -> Any:
        kind, answer = self._ask("eval", expression)
        assert kind == "ok", answer
        return answer

    def fails(self, expression: str) -> str:
        """The sentence with which it fails."""
        kind, answer = self._ask("eval", expression)
        assert kind in ("BusyError", "RuntimeError", "_StepError"), (kind, answer)
        return sentence(answer)

    @property
    def state(self) -> str:
        return str(self.get("driver.state"))

    @property
    def steps(self) -> list[str]:
        """What the driver was asked to do since the last look."""
        found = self.get("list(driver.calls)")
        self.do("driver.calls.clear()")
        return list(found)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)


def sentence(text: str) -> str:
    """A text, if a server can show all of it as one line."""
    assert text.endswith(".") and len(text) <= LONGEST and text.isprintable(), text
    return text


@pytest.fixture
def gpus(tmp_path: Path, library: Path) -> Gpus:
    return Gpus(tmp_path / "gpus", library)


@pytest.fixture
def start(gpus: Gpus) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(**env: str) -> Process:
        made.append(Process(gpus, **env))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def process(start: Callable[..., Process]) -> Process:
    return start()


# -- there and back ------------------------------------------------------------------------------


def test_there_and_back(process: Process) -> None:
    assert process.get("cuda.hindrance()") == ""
    assert process.steps == [], "looking changes nothing"
    assert process.get("cuda.vacate()") == 2 * GIB
    assert process.steps == ["Lock", "Checkpoint"]
    assert process.state == "CHECKPOINTED"
    assert 0 < process.get("driver.limit") <= 60_000, "the lock has a time limit"
    assert process.gpus.used(process.pid) is None
    assert process.get("cuda.vacate()") == 2 * GIB, "a second time does nothing"
    assert process.get("cuda.resume()") is None
    assert process.steps == ["Restore", "Unlock"]
    assert process.state == "RUNNING"
    assert process.gpus.used(process.pid) == 2 * GIB
    process.get("cuda.resume()")
    assert process.steps == [], "a running process is left alone"
    assert process.get("cuda.vacate()") == 2 * GIB, "and once more"
    process.get("cuda.resume()")
    assert process.get("driver.blocked") == []


def test_no_garbage_is_collected_while_it_is_away(process: Process) -> None:
    """It may hold memory of the GPU: to free it would block the only thread that can go on."""
    process.do(f"a = [driver.Array({MIB})]; a.append(a); del a")
    process.get("cuda.vacate()")
    assert process.get("driver.on_gpu") == {UUID: 2 * GIB}, "it was collected before"
    process.do(f"driver.state = 'RUNNING'; a = [driver.Array({MIB})]; a.append(a); del a")
    process.do("driver.state = 'CHECKPOINTED'; x = [[i] for i in range(100_000)]; del x")
    assert process.get("driver.blocked") == []
    process.get("cuda.resume()")
    process.do("gc.collect()")
    assert process.get("driver.on_gpu") == {UUID: 2 * GIB}
    assert process.get("gc.isenabled()")


def test_who_collects_garbage_himself_goes_on_doing_so(process: Process) -> None:
    process.do("gc.disable()")
    process.get("cuda.vacate()")
    process.get("cuda.resume()")
    assert not process.get("gc.isenabled()")


# -- what is refused -----------------------------------------------------------------------------

#: Modules of frameworks, as far as they are looked at; all are fakes. None of them is imported.
MODULE = """
def module(name, **content):
    for number in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:number])
        sys.modules.setdefault(part, types.ModuleType(part))
    vars(sys.modules[name]).update(content)
    return sys.modules[name]
class Thing:
    def __init__(self, **content):
        vars(self).update(content)
"""
TORCH = """
module("torch.distributed", is_available=lambda: True, is_initialized=lambda: True,
       get_backend=lambda: {0!r})
module("torch.distributed.distributed_c10d",
       _world=Thing(pg_map={{1: ({0!r}, None)}}, pg_backend_config={{1: {1!r}}}))
"""
CUPY = """
pool = Thing(malloc=None)
class Pool:
    def malloc(self, size): pass
class AsyncPool(Pool): pass
default, own, later = Pool(), Pool(), AsyncPool()
module("cupy", get_default_memory_pool=lambda: default)
def malloc_managed(size): pass
def malloc_async(size): pass
current = [default.malloc]
module("cupy.cuda", get_allocator=lambda: current[0], MemoryAsyncPool=AsyncPool,
       malloc_async=malloc_async, memory=Thing(_malloc=None))
"""
RMM = """
class CudaMemoryResource: pass
class ManagedMemoryResource: pass
class SystemMemoryResource: pass
class CallbackMemoryResource: pass
class PoolMemoryResource:
    def __init__(self, upstream_mr): self.upstream_mr = upstream_mr
class BinningMemoryResource(PoolMemoryResource):
    bin_mrs = []
current = [CudaMemoryResource()]
module("rmm.mr", get_per_device_resource=lambda index: current[index])
"""

HINDRANCES: dict[str, tuple[str, str]] = {
    "the driver is too old": (
        "driver.version = 12040",
        (
            "NVIDIA's driver is too old to move the GPU's memory away (CUDA 12.4); "
            "ask an administrator for driver 570 or newer."
        ),
    ),
    "the driver is too old for Arm": (
        "cuda.platform = types.SimpleNamespace(machine=lambda: 'aarch64')",
        (
            "NVIDIA's driver is too old to move the GPU's memory away (CUDA 13.0); "
            "ask an administrator for driver 595 or newer."
        ),
    ),
    "a library that is newer than the driver": (
        (
            "cuda._MODULE = os.environ['FAKE_GPU'] + '/version'\n"
            "file = open(cuda._MODULE, 'w')\n"
            "file.write('NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.183.01  x')\n"
            "file.close()"
        ),
        (
            "NVIDIA's driver is too old to move the GPU's memory away (driver 535); ask an "
            "administrator for driver 570 or newer."
        ),
    ),
    "another kind of machine": (
        "cuda.platform = types.SimpleNamespace(machine=lambda: 'riscv64')",
        "NVIDIA's driver is not known to checkpoint processes on riscv64.",
    ),
    "no version": (
        "driver.fail['Version'] = ('CUDA_ERROR_INVALID_VALUE', None)",
        "The version of NVIDIA's driver cannot be read (CUDA_ERROR_INVALID_VALUE).",
    ),
    "a package that is too old": (
        "del driver.cuCheckpointProcessLock",
        (
            "The package `cuda-bindings` in the kernel's environment is too old to move the GPU's "
            "memory away; install 12.8 or newer."
        ),
    ),
    "MIG by name": (
        "os.environ['JUPYTER_GPU_SHARE_UUID'] = 'MIG-1'",
        (
            "NVIDIA's driver cannot checkpoint a process on a MIG instance; save what you need, or "
            "take a share of a GPU that is not split."
        ),
    ),
    "MIG by isolation": (
        "os.environ['JUPYTER_GPU_SHARE_ISOLATION'] = 'hardware'",
        (
            "NVIDIA's driver cannot checkpoint a process on a MIG instance; save what you need, or "
            "take a share of a GPU that is not split."
        ),
    ),
    "MPS by isolation": (
        "os.environ['JUPYTER_GPU_SHARE_ISOLATION'] = 'mps'",
        (
            "NVIDIA's driver cannot checkpoint a process that uses MPS, and the GPU is reached "
            "through MPS; an administrator can turn MPS off."
        ),
    ),
    "some GPUs of the machine, and an older driver": (
        (
            "driver.version = 12080; cuda._PCI = cuda._DEVICES = os.environ['FAKE_GPU'] + '/pci'\n"
            "os.makedirs(cuda._PCI + '/0000:01:00.0'); os.makedirs(cuda._PCI + '/0000:02:00.0')\n"
            "open(cuda._PCI + '/nvidia1', 'w').close()"
        ),
        (
            "This driver can only checkpoint a process that sees all GPUs of the machine; ask an "
            "administrator for driver 575 or newer."
        ),
    ),
    "what GPUs the machine has is not known, and an older driver": (
        "driver.version = 12080; cuda._PCI = '/nowhere'",
        (
            "It cannot be seen whether the GPU's memory can be moved "
            "([Errno 2] No such file or directory: '/nowhere')."
        ),
    ),
    "NCCL in PyTorch": (
        TORCH.format("nccl", "cuda:nccl"),
        (
            "Memory that NCCL uses cannot be moved: PyTorch's process group uses NCCL; "
            "`torch.distributed.destroy_process_group()` ends it."
        ),
    ),
    "NCCL beside another backend in PyTorch": (
        TORCH.format("undefined", "cpu:gloo,cuda:nccl"),
        (
            "Memory that NCCL uses cannot be moved: PyTorch's process group uses NCCL; "
            "`torch.distributed.destroy_process_group()` ends it."
        ),
    ),
    "PyTorch tells it otherwise now": (
        TORCH.format("gloo", "") + "del sys.modules['torch.distributed.distributed_c10d']._world",
        (
            "Memory that NCCL uses cannot be moved: it cannot be seen whether PyTorch uses NCCL "
            "(AttributeError)."
        ),
    ),
    "NCCL in CuPy": (
        (
            "class NcclCommunicator: pass\n"
            "module('cupy_backends.cuda.libs.nccl', NcclCommunicator=NcclCommunicator)\n"
            "mine = NcclCommunicator()"
        ),
        "Memory that NCCL uses cannot be moved: a communicator of CuPy uses NCCL; delete it.",
    ),
    "NCCL in CuPy's distributed": (
        (
            "class NCCLBackend: pass\n"
            "module('cupyx.distributed._nccl_comm', NCCLBackend=NCCLBackend)\n"
            "mine = [NCCLBackend()]"
        ),
        "Memory that NCCL uses cannot be moved: a communicator of CuPy uses NCCL; delete it.",
    ),
    "a communicator that Python's collector does not list": (
        (
            "module('cupy_backends.cuda.libs.nccl', NcclCommunicator=memoryview(b'').__class__)\n"
            "NcclCommunicator = sys.modules['cupy_backends.cuda.libs.nccl'].NcclCommunicator\n"
            "class Owner: pass\n"
            "mine = Owner(); mine.held = memoryview(b'x')"
        ),
        "Memory that NCCL uses cannot be moved: a communicator of CuPy uses NCCL; delete it.",
    ),
    "NCCL in nccl4py": (
        (
            "class Communicator: pass\n"
            "module('nccl.core', Communicator=Communicator)\n"
            "def keep(): return mine\n"
            "mine = Communicator()"
        ),
        (
            "Memory that NCCL uses cannot be moved: a communicator of nccl4py uses NCCL; "
            "destroy and delete it."
        ),
    ),
    "several GPUs with NCCL loaded": (
        (
            "os.environ['JUPYTER_GPU_SHARE_UUID'] = 'GPU-a,GPU-b'\n"
            "cuda_signs._PROC = os.environ['FAKE_GPU'] + '/proc'\n"
            "os.makedirs(cuda_signs._PROC + '/self')\n"
            "maps = open(cuda_signs._PROC + '/self/maps', 'w')\n"
            "maps.write('1-2 r-xp 0 0 0 /lib/libnccl.so.2\\n'); maps.close()"
        ),
        (
            "Memory that NCCL uses cannot be moved: NCCL is loaded beside several GPUs, and may "
            "use them; take a size with one GPU."
        ),
    ),
    "unified memory for XLA": (
        "os.environ['TF_FORCE_UNIFIED_MEMORY'] = '1'",
        (
            "Managed memory cannot be moved: `TF_FORCE_UNIFIED_MEMORY` is set; start the kernel "
            "without it."
        ),
    ),
    "managed memory of RMM": (
        RMM + "current[0] = ManagedMemoryResource()",
        (
            "Managed memory cannot be moved: RMM gives it (`ManagedMemoryResource`); choose "
            "another memory resource."
        ),
    ),
    "managed memory of RMM, behind others": (
        RMM + "bins = BinningMemoryResource(CudaMemoryResource())\n"
        "bins.bin_mrs = [PoolMemoryResource(ManagedMemoryResource())]\n"
        "current[0] = PoolMemoryResource(bins)",
        (
            "Managed memory cannot be moved: RMM gives it (`ManagedMemoryResource`); choose "
            "another memory resource."
        ),
    ),
    "what RMM gets from the user": (
        RMM + "current[0] = PoolMemoryResource(CallbackMemoryResource())",
        (
            "Managed memory cannot be moved: RMM gives it (`CallbackMemoryResource`); choose "
            "another memory resource."
        ),
    ),
    "RMM does not tell": (
        RMM + "current.clear()",
        "Managed memory cannot be moved: it cannot be seen whether RMM uses it (IndexError).",
    ),
    "managed memory of CuPy": (
        CUPY + "current[0] = malloc_managed",
        (
            "Managed memory cannot be moved: CuPy's allocator was replaced, and may give it; "
            "`cupy.cuda.set_allocator` sets it back."
        ),
    ),
    "another pool of CuPy": (
        CUPY + "current[0] = own.malloc",
        (
            "Managed memory cannot be moved: CuPy's allocator was replaced, and may give it; "
            "`cupy.cuda.set_allocator` sets it back."
        ),
    ),
    "a managed array of Numba": (
        (
            "class ManagedMemory: pass\n"
            "module('numba.cuda.cudadrv.driver', ManagedMemory=ManagedMemory)\n"
            "mine = {'array': ManagedMemory()}"
        ),
        "Managed memory cannot be moved: a `managed_array` of Numba is in it; delete the array.",
    ),
    "a paged optimizer of bitsandbytes": (
        (
            "class GlobalPageManager: _instance = Thing(paged_tensors=[1])\n"
            "module('bitsandbytes.functional', GlobalPageManager=GlobalPageManager)"
        ),
        (
            "Managed memory cannot be moved: a paged optimizer of bitsandbytes uses it; delete the "
            "optimizer, or take one without it."
        ),
    ),
    "WSL2": (
        "cuda.own_driver.open_files = lambda pid='self': {'dxg'}",
        "NVIDIA's driver cannot checkpoint a process under WSL2.",
    ),
    "a GPU without a share": (
        "cuda_signs.driver.contexts = lambda: ['GPU-a', 'GPU-b']",
        (
            "This kernel uses a GPU that it has no share of (GPU-b), where nobody keeps room for "
            "it; leave `CUDA_VISIBLE_DEVICES` as it is."
        ),
    ),
    "nothing tells the free memory": (
        "open(os.environ['FAKE_GPU'] + '/noload', 'w').close()",
        (
            "The memory of the share's GPUs cannot be read from here, so nobody would know later "
            "whether there is room to move back."
        ),
    ),
    "a GPU that is not there": (
        "os.environ['JUPYTER_GPU_SHARE_UUID'] = 'GPU-a,GPU-z'",
        (
            "The memory of the share's GPUs cannot be read from here, so nobody would know later "
            "whether there is room to move back."
        ),
    ),
    "the machine's memory is low": (
        f"cuda_signs.host_memory = lambda: {2 * GIB}",
        (
            "The machine's memory has no room for the 2 GiB on the GPU: 2 GiB are left for this "
            "kernel; free some, or ask for a higher limit."
        ),
    ),
    "the machine's memory is low for a use that is not told": (
        (
            f"open(os.environ['FAKE_GPU'] + '/outside', 'w').close()\n"
            f"cuda_signs.host_memory = lambda: {20 * GIB}"
        ),
        (
            "The machine's memory has no room for the 20 GiB on the GPU: 20 GiB are left for this "
            "kernel; free some, or ask for a higher limit."
        ),
    ),
    "the machine's memory is not known": (
        (
            "cuda_signs._PROC = '/nowhere'; cuda_signs._xla_managed = lambda: ''\n"
            "cuda_signs.children = lambda: []"
        ),
        "It cannot be read how much of the machine's memory this kernel may still take.",
    ),
    "no state": (
        "driver.fail['GetState'] = ('CUDA_ERROR_NOT_INITIALIZED', None)",
        "NVIDIA's driver does not tell the state of this process (CUDA_ERROR_NOT_INITIALIZED).",
    ),
    "a state that the package does not know": (
        "driver.state = 'NEW'",
        (
            "NVIDIA's driver does not tell the state of this process "
            "(6 is not a valid CUprocessState)."
        ),
    ),
    "locked": (
        "driver.state = 'LOCKED'",
        "Calls to CUDA are locked for this process already, perhaps by another tool.",
    ),
    "away": (
        "driver.state = 'CHECKPOINTED'",
        "The memory of the GPU is away already, perhaps by another tool.",
    ),
    "failed": (
        "driver.state = 'FAILED'",
        "NVIDIA's driver has lost what this process had on the GPU: restart the kernel.",
    ),
    "in between": (
        "driver.state = 'CHECKPOINTING'",
        "NVIDIA's driver is at work on this process (CHECKPOINTING); try again later.",
    ),
}
FRAMEWORKS = "('cupy', 'jax', 'nccl', 'numba', 'rmm', 'tensorflow', 'torch')"
LOOK = f"""
def look():
    parts = {{name.partition('.')[0] for name in sys.modules}}
    return [driver.state, driver.calls, driver.on_gpu, driver.blocked, gc.isenabled(),
            sorted(parts & set({FRAMEWORKS}))]
"""


@pytest.mark.parametrize("what", HINDRANCES)
def test_what_is_refused(what: str, process: Process) -> None:
    before, said = HINDRANCES[what]
    process.do(MODULE + before)
    process.do(LOOK)
    found = process.get("look()")
    assert sentence(process.get("cuda.hindrance()")) == said
    assert process.get("look()") == found, "the process is as it was"


@pytest.mark.parametrize(
    "before",
    [
        TORCH.format("gloo", "cpu:gloo,cuda:gloo"),
        "module('torch.distributed', is_available=lambda: True, is_initialized=lambda: False)",
        CUPY,
        CUPY + "current[0] = later.malloc",
        CUPY + "current[0] = malloc_async",
        CUPY + "malloc_async.__module__ = 'rmm.allocators.cupy'; current[0] = malloc_async",
        RMM,
        RMM + "current[0] = BinningMemoryResource(PoolMemoryResource(CudaMemoryResource()))",
        (
            "class ManagedMemory: pass\n"
            "module('numba.cuda.cudadrv.driver', ManagedMemory=ManagedMemory)"
        ),
        "os.environ['TF_FORCE_UNIFIED_MEMORY'] = 'False'",
        "driver.version = 12090; cuda._PCI = '/nowhere'",
        (
            "cuda._MODULE = os.environ['FAKE_GPU'] + '/version'\n"
            "file = open(cuda._MODULE, 'w')\n"
            "file.write('NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu')\n"
            "file.close()"
        ),
        "driver.version = 13020; cuda.platform = types.SimpleNamespace(machine=lambda: 'aarch64')",
        (
            "open(os.environ['FAKE_GPU'] + '/outside', 'w').close()\n"
            f"cuda_signs.host_memory = lambda: {21 * GIB}"
        ),
    ],
)
def test_what_is_no_hindrance(before: str, process: Process) -> None:
    process.do(MODULE + before)
    assert process.get("cuda.hindrance()") == ""


def test_the_environment_that_the_process_began_with_counts(start: Callable[..., Process]) -> None:
    process = start(TF_FORCE_UNIFIED_MEMORY="true")
    process.do("del os.environ['TF_FORCE_UNIFIED_MEMORY']")
    assert "`TF_FORCE_UNIFIED_MEMORY` is set" in process.get("cuda.hindrance()")


def test_without_the_package(gpus: Gpus, tmp_path: Path) -> None:
    code = (
        "from gpu_share_kernel import cuda; print(cuda.hindrance()); cuda.resume(); cuda.vacate()"
    )
    (tmp_path / "cuda.py").write_text("raise ImportError('No module named \"cuda.bindings\"')")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **gpus.env, "PYTHONPATH": f"{PATH}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = (
        "The package `cuda-bindings` (12.8 or newer) is needed in the kernel's environment to move "
        'the GPU\'s memory away (No module named "cuda.bindings").'
    )
    assert sentence(done.stdout.strip()) == said
    assert done.stderr.strip().splitlines()[-1].endswith(f"Error: {said}"), "and to move it, too"


def test_a_daemon_of_mps_counts_while_it_answers(process: Process) -> None:
    control = process.gpus.folder / "mps" / "control"
    control.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.bind(str(control))
        daemon.listen()
        assert "uses MPS" in sentence(process.get("cuda.hindrance()"))
    assert process.get("cuda.hindrance()") == "", "it has ended, and left its socket behind"


def test_child_processes_that_have_the_driver_open(process: Process) -> None:
    process.do("import subprocess; number = driver.open_driver()")
    process.do("def child(**more): return subprocess.Popen(['sleep', '60'], **more)")
    process.do("other = child()")
    assert process.get("cuda.hindrance()") == "", "it has nothing to do with the GPU"
    process.do("one = child(pass_fds=[number])")
    said = sentence(process.get("cuda.hindrance()"))
    assert said == (
        f"Child processes use the GPU, or may do so ({process.get('one.pid')}); end them, for "
        "instance by closing the data loader."
    )
    process.do("one.kill()")
    process.do("while cuda_signs._state(one.pid) != 'Z': pass")
    assert process.get("cuda.hindrance()") == "", "one that only waits to be collected has ended"
    process.do(
        "real = os.listdir\n"
        "def listdir(path):\n"
        "    if path == f'/proc/{other.pid}/fd': raise PermissionError(path)\n"
        "    return real(path)\n"
        "os.listdir = listdir"
    )
    assert "may do so" in process.get("cuda.hindrance()"), "one that cannot be looked into"
    process.do("other.kill()")


# -- the machine's memory ------------------------------------------------------------------------


def machine(folder: Path, groups: str, **files: int | str) -> None:
    """Fakes of what Linux tells: 100 GiB available, and control groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(f"MemAvailable: {100 * MIB} kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(groups)
    for name, content in files.items():
        path = folder / "groups" / name.replace("__", "/").replace("-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/\n", {}, 100 * GIB),
        ("0::/\n", {"memory-max": 8 * GIB, "memory-current": 3 * GIB}, 5 * GIB),
        (
            "0::/\n",
            {
                "memory-max": 8 * GIB,
                "memory-current": 3 * GIB,
                "memory-stat": f"anon 1\ninactive_file {GIB}",
            },
            6 * GIB,
        ),
        ("0::/\n", {"memory-max": "max", "memory-high": 4 * GIB, "memory-current": 0}, 4 * GIB),
        ("0::/\n", {"memory-max": 2 * GIB, "memory-current": 3 * GIB}, 0),
        (
            "0::/pods/mine\n",
            {
                "pods__mine__memory-max": "max",
                "pods__mine__memory-current": GIB,
                "pods__memory-max": 8 * GIB,
                "pods__memory-current": 7 * GIB,
            },
            GIB,
        ),
        (
            "4:cpu,memory:/pods/mine\n0::/\n",
            {
                "memory__pods__mine__memory-limit_in_bytes": 6 * GIB,
                "memory__pods__mine__memory-usage_in_bytes": 2 * GIB,
                "memory__pods__mine__memory-stat": f"total_inactive_file {GIB}",
                "memory__memory-limit_in_bytes": 2**63 - 4096,
                "memory__memory-usage_in_bytes": 9 * GIB,
            },
            5 * GIB,
        ),
        # A container that does not see the path by which its group is known outside.
        (
            "4:memory:/kubepods/x\n",
            {"memory__memory-limit_in_bytes": 6 * GIB, "memory__memory-usage_in_bytes": GIB},
            5 * GIB,
        ),
        ("0::/\n", {"memory-max": "much"}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_what_is_left_of_the_machines_memory(
    groups: str, files: dict[str, Any], left: int | None, process: Process, tmp_path: Path
) -> None:
    machine(tmp_path, groups, **files)
    process.do(f"cuda_signs._PROC = {str(tmp_path / 'proc')!r}")
    process.do(f"cuda_signs._CGROUPS = {str(tmp_path / 'groups')!r}")
    assert process.get("cuda_signs.host_memory()") == left


def test_the_real_machine_tells(process: Process) -> None:
    assert process.get("cuda_signs.host_memory()") > 0


# -- what goes wrong -----------------------------------------------------------------------------

LOST = "The GPU's state is lost: restart the kernel."
LOCKED = "Its calls to CUDA stay locked: try again, or restart the kernel."

#: What fails, the state in the end, what was done, and what is said.
VACATE: dict[str, tuple[str, str, list[str], str]] = {
    "work that does not end in time": (
        "{'Lock': ('CUDA_ERROR_NOT_READY', None)}",
        "RUNNING",
        ["Lock"],
        (
            "NVIDIA's driver could not stop this process's calls (CUDA_ERROR_NOT_READY). "
            "Nothing has changed."
        ),
    ),
    "a lock that was taken all the same": (
        "{'Lock': ('CUDA_ERROR_NOT_READY', 'LOCKED')}",
        "RUNNING",
        ["Lock", "Unlock"],
        (
            "NVIDIA's driver could not stop this process's calls (CUDA_ERROR_NOT_READY). "
            "Nothing has changed."
        ),
    ),
    "a function that the driver does not have": (
        "{'Lock': (RuntimeError('Function \"cuCheckpointProcessLock\" not found'), None)}",
        "RUNNING",
        ["Lock"],
        (
            "NVIDIA's driver could not stop this process's calls "
            '(Function "cuCheckpointProcessLock" not found). Nothing has changed.'
        ),
    ),
    "a checkpoint that cannot be": (
        "{'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None)}",
        "RUNNING",
        ["Lock", "Checkpoint", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_NOT_SUPPORTED). "
            "Nothing has changed."
        ),
    ),
    "a checkpoint that was made all the same": (
        "{'Checkpoint': ('CUDA_ERROR_OPERATING_SYSTEM', 'CHECKPOINTED')}",
        "RUNNING",
        ["Lock", "Checkpoint", "Restore", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_OPERATING_SYSTEM). "
            "Nothing has changed."
        ),
    ),
    "a checkpoint that loses everything": (
        "{'Checkpoint': ('CUDA_ERROR_OUT_OF_MEMORY', 'FAILED')}",
        "FAILED",
        ["Lock", "Checkpoint"],
        f"NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_OUT_OF_MEMORY). {LOST}",
    ),
    "a checkpoint, and the unlocking after it": (
        (
            "{'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None),"
            " 'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None)}"
        ),
        "LOCKED",
        ["Lock", "Checkpoint", "Unlock"],
        (
            "NVIDIA's driver could not move the GPU's memory away (CUDA_ERROR_NOT_SUPPORTED). "
            f"{LOCKED}"
        ),
    ),
}


@pytest.mark.parametrize("what", VACATE)
def test_what_goes_wrong_on_the_way_off(what: str, process: Process) -> None:
    fail, state, steps, said = VACATE[what]
    process.do(f"driver.fail.update({fail})")
    assert process.fails("cuda.vacate()") == said
    assert (process.state, process.steps) == (state, steps)
    if state == "RUNNING":
        assert process.gpus.used(process.pid) == 2 * GIB
        assert process.get("gc.isenabled()")
        process.do("driver.fail.clear()")
        assert process.get("cuda.vacate()") == 2 * GIB, "it can be tried again"


def test_a_lock_that_is_left_is_undone_by_the_way_back(process: Process) -> None:
    process.do(f"driver.fail.update({VACATE['a checkpoint, and the unlocking after it'][0]})")
    process.fails("cuda.vacate()")
    process.do("driver.fail.clear()")
    process.get("cuda.resume()")
    assert process.state == "RUNNING"
    assert process.get("gc.isenabled()")


def test_an_interrupt_on_the_way_off(process: Process) -> None:
    process.do("driver.fail['Checkpoint'] = (KeyboardInterrupt(), None)")
    process.do("driver_code = cuda._code")
    # The interrupt comes when the driver has returned: Python looks for it only then.
    process.do(
        "def code(function, *args):\n"
        "    try: return driver_code(function, *args)\n"
        "    finally:\n"
        "        if function is driver.cuCheckpointProcessCheckpoint: driver.fail.clear()\n"
        "cuda._code = code"
    )
    kind, _ = process._ask("eval", "cuda.vacate()")
    assert kind == "KeyboardInterrupt"
    assert (process.state, process.get("gc.isenabled()")) == ("RUNNING", True)


@pytest.mark.parametrize("state", ["FAILED", "CHECKPOINTING"])
def test_nothing_is_moved_in_a_bad_state(state: str, process: Process) -> None:
    process.do(f"driver.state = {state!r}")
    process.fails("cuda.vacate()")
    process.fails("cuda.resume()")
    assert (process.state, process.steps) == (state, [])


RESUME: dict[str, tuple[str, str, list[str], str]] = {
    "a restore that has no room": (
        "{'Restore': ('CUDA_ERROR_OUT_OF_MEMORY', None)}",
        "CHECKPOINTED",
        ["Restore"],
        (
            "NVIDIA's driver could not move the GPU's memory back (CUDA_ERROR_OUT_OF_MEMORY). "
            "It stays off the GPU."
        ),
    ),
    "a restore that loses everything": (
        "{'Restore': ('CUDA_ERROR_OPERATING_SYSTEM', 'FAILED')}",
        "FAILED",
        ["Restore"],
        (
            f"NVIDIA's driver could not move the GPU's memory back (CUDA_ERROR_OPERATING_SYSTEM). "
            f"{LOST}"
        ),
    ),
    "the unlocking": (
        "{'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None)}",
        "CHECKPOINTED",
        ["Restore", "Unlock", "Checkpoint"],
        (
            "NVIDIA's driver could not let this process's calls go on (CUDA_ERROR_ILLEGAL_STATE). "
            "It is off the GPU again."
        ),
    ),
    "the unlocking, and moving off again": (
        (
            "{'Unlock': ('CUDA_ERROR_ILLEGAL_STATE', None),"
            " 'Checkpoint': ('CUDA_ERROR_NOT_SUPPORTED', None)}"
        ),
        "LOCKED",
        ["Restore", "Unlock", "Checkpoint"],
        (
            "NVIDIA's driver could not let this process's calls go on (CUDA_ERROR_ILLEGAL_STATE). "
            f"{LOCKED}"
        ),
    ),
    "the state": (
        "{'GetState': ('CUDA_ERROR_OPERATING_SYSTEM', None)}",
        "CHECKPOINTED",
        [],
        "NVIDIA's driver does not tell the state of this process (CUDA_ERROR_OPERATING_SYSTEM).",
    ),
}


@pytest.mark.parametrize("what", RESUME)
def test_what_goes_wrong_on_the_way_back(what: str, process: Process) -> None:
    fail, state, steps, said = RESUME[what]
    process.get("cuda.vacate()")
    process.do("driver.calls.clear()")
    process.do(f"driver.fail.update({fail})")
    assert process.fails("cuda.resume()") == said
    assert (process.state, process.steps) == (state, steps)
    assert not process.get("gc.isenabled()"), "it is not back"
    if state != "FAILED":
        process.do("driver.fail.clear()")
        process.get("cuda.resume()")
        assert process.state == "RUNNING"
        assert process.gpus.used(process.pid) == 2 * GIB
        assert process.get("gc.isenabled()")


def test_a_driver_that_tells_nothing_of_a_process_that_was_never_moved(process: Process) -> None:
    process.do("driver.fail['GetState'] = ('CUDA_ERROR_NOT_INITIALIZED', None)")
    assert process.get("cuda.resume()") is None
    process.fails("cuda.vacate()")
    assert process.steps == []


def test_what_frameworks_only_keep_is_not_carried_along(process: Process) -> None:
    process.do(MODULE + "from gpu_share_kernel import vacate")
    process.do(
        "module('torch', cuda=Thing(is_initialized=lambda: True,"
        " empty_cache=lambda: driver.calls.append('empty')))"
    )
    assert process.get("vacate.vacate()")["proven"]
    assert process.steps == ["empty", "Lock", "Checkpoint"]
    process.do("cuda.own_driver.reached = lambda: True")
    process.get("vacate.vacate()")
    assert process.steps == [], "a call to CUDA would wait for ever now"
    process.get("vacate.resume()")
    # Nor does the machine need room for it.
    process.do(
        f"sys.modules['torch'].cuda.empty_cache = lambda: driver.allocate({-GIB})\n"
        f"cuda_signs.host_memory = lambda: {GIB + 300 * MIB}"
    )
    assert process.get("cuda.hindrance()") == ""


def test_what_failed_once_is_not_tried_again(process: Process) -> None:
    process.do("from gpu_share_kernel import vacate")
    process.do("driver.fail['Checkpoint'] = ('CUDA_ERROR_NOT_SUPPORTED', None)")
    process.fails("vacate.vacate()")
    process.do("vacate.resume(); driver.fail.clear(); driver.calls.clear()")
    planned = process.get("vacate.plan()")
    assert (planned["how"], planned["why"][:30]) == ("none", "Moving the GPU's memory away d")
    assert "CUDA_ERROR_NOT_SUPPORTED" in process.fails("vacate.vacate()")
    assert process.steps == []


def test_a_gpu_at_work_is_asked_again_more_and_more_seldom(process: Process) -> None:
    """Nothing was moved then."""
    process.do("from gpu_share_kernel import vacate; waits, clock = [], [0.0]")
    process.do("vacate.time = types.SimpleNamespace(monotonic=lambda: clock[0])")
    process.do("driver.fail['Lock'] = ('CUDA_ERROR_NOT_READY', None)")
    for _ in range(8):
        process.fails("vacate.vacate()")
        process.do("vacate.resume()")
        assert process.get("vacate.plan()")["how"] == "none"
        process.do("waits.append(vacate._until - clock[0]); clock[0] = vacate._until")
        assert process.get("vacate.plan()")["how"] == "cuda"
    assert process.get("waits")[:3] == [60, 120, 240]
    assert process.get("waits")[-1] == 3600
    process.do("driver.fail.clear()")
    assert process.get("vacate.vacate()")["proven"]


def test_the_driver_has_to_tell_the_state_too(process: Process) -> None:
    process.do("driver.fail['Checkpoint'] = ('CUDA_SUCCESS', None)")
    said = process.fails("cuda.vacate()")
    assert said == (
        "NVIDIA's driver says that the GPU's memory was moved away, and then that the process is "
        "LOCKED. Nothing has changed."
    )
    assert process.state == "RUNNING"


# -- room to come back ---------------------------------------------------------------------------


def test_it_comes_back_only_where_there_is_room(process: Process) -> None:
    process.get("cuda.vacate()")
    process.do("driver.calls.clear()")
    process.gpus.neighbour(79 * GIB)
    assert process.fails("cuda.resume()") == (
        "The GPU has no room for the 2.062 GiB that were moved away: 1 GiB are free. "
        "It stays off the GPU."
    )
    assert (process.state, process.steps) == ("CHECKPOINTED", []), "the driver was not asked"
    process.gpus.neighbour(77 * GIB)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_it_does_not_come_back_where_the_room_is_not_known(process: Process) -> None:
    process.get("cuda.vacate()")
    blind = process.gpus.folder / "noload"
    blind.touch()
    assert "cannot be read" in process.fails("cuda.resume()")
    assert process.state == "CHECKPOINTED"
    blind.unlink()
    process.get("cuda.resume()")


def test_a_use_that_the_driver_does_not_tell(process: Process) -> None:
    """In a pod: what was free before and after tells, and the share is what it needs at most."""
    (process.gpus.folder / "outside").touch()
    assert process.get("cuda.vacate()") == 2 * GIB
    process.gpus.neighbour(61 * GIB)
    assert "no room for the 20 GiB" in process.fails("cuda.resume()")
    process.gpus.neighbour(60 * GIB)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_a_share_of_all_that_there_is_comes_back(process: Process) -> None:
    """Though a GPU never has quite as much free as it has, and neighbours take some."""
    (process.gpus.folder / "outside").touch()
    process.do(f"os.environ['JUPYTER_GPU_SHARE_MEMORY_BYTES'] = '{80 * GIB}'")
    process.gpus.neighbour(GIB)
    assert process.get("cuda.vacate()") == 2 * GIB
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


def test_each_gpu_of_a_share_needs_its_own_room(gpus: Gpus, start: Callable[..., Process]) -> None:
    gpus.add("GPU-b")
    process = start(JUPYTER_GPU_SHARE_UUID="GPU-a,GPU-b")
    process.do(f"driver.allocate({5 * GIB}, 'GPU-b')")
    assert process.get("cuda.vacate()") == 7 * GIB
    gpus.neighbour(76 * GIB, "GPU-b")
    assert "no room for the 5.062 GiB" in process.fails("cuda.resume()")
    gpus.neighbour(0, "GPU-b")
    process.get("cuda.resume()")


def test_what_another_tool_has_moved_comes_back_too(process: Process) -> None:
    process.do("driver._enter('CHECKPOINTED')")
    assert process.get("cuda.vacate()") == 0
    process.gpus.neighbour(61 * GIB)
    assert "no room for the 20 GiB" in process.fails("cuda.resume()")
    process.gpus.neighbour(0)
    process.get("cuda.resume()")
    assert process.state == "RUNNING"


# -- a kernel ------------------------------------------------------------------------------------


@pytest.fixture
def kernel(gpus: Gpus, tmp_path: Path) -> Iterator[Session]:
    """A real one, with the fakes."""
    session = Session(tmp_path, path=[FAKE], **gpus.env)
    yield session
    session.close()


def test_a_kernel_moves_off_and_back(kernel: Session, gpus: Gpus) -> None:
    nothing = {"how": "nothing", "why": ""}
    assert kernel.ask("plan()", "vacate") == nothing, "it never opened the GPU"
    kernel.run("from cuda.bindings import driver; state = [1]; same = state")
    kernel.run(f"driver.allocate({3 * GIB})")
    pid = kernel.process.pid
    assert kernel.ask("plan()", "vacate") == {"how": "cuda", "why": ""}
    moved = {"how": "cuda", "bytes": 3 * GIB, "most": 3 * GIB, "proven": True}
    assert kernel.ask("vacate()", "vacate") == moved
    assert (gpus.used(pid), kernel.value("driver.state")) == (None, "CHECKPOINTED")
    gpus.neighbour(79 * GIB)
    with pytest.raises(CellError, match="no room for the 3"):
        kernel.ask("resume()", "vacate")
    gpus.neighbour(0)
    assert kernel.ask("resume()", "vacate") is None
    assert (gpus.used(pid), kernel.value("driver.state")) == (3 * GIB, "RUNNING")
    assert kernel.value("[state, same is state, driver.blocked]") == [[1], True, []]


def test_children_of_one_that_holds_nothing_may_hold_something(kernel: Session) -> None:
    """As a training that a cell has started: its memory does not leave with the kernel's share."""
    kernel.run("import os, subprocess; from cuda.bindings import driver")
    kernel.run("number = driver.open_driver()")
    kernel.run("child = subprocess.Popen(['sleep', '60'], pass_fds=[number]); os.close(number)")
    planned = kernel.ask("plan()", "vacate")
    assert (planned["how"], planned["why"][:27]) == ("none", "Child processes use the GPU")
    kernel.run("child.kill(); child.wait()")
    assert kernel.ask("plan()", "vacate") == {"how": "nothing", "why": ""}


def test_a_kernel_that_cannot_says_why(kernel: Session) -> None:
    kernel.run(f"from cuda.bindings import driver; driver.allocate({GIB}); driver.version = 12020")
    planned = kernel.ask("plan()", "vacate")
    assert planned["how"] == "none"
    assert "driver 570 or newer" in sentence(planned["why"])
    with pytest.raises(CellError, match="driver 570 or newer"):
        kernel.ask("vacate()", "vacate")
    assert kernel.value("[driver.state, driver.calls]") == ["RUNNING", []]
