"""What keeps a process that uses CUDA on its GPUs, and how that is told. The driver is a FAKE."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cuda_process import GIB, MIB, Gpus, Process, sentence
from fake_frameworks import MODULE
from waiting import PATIENCE

from jupyter_gpu_share.kernel_side import PATH

pytestmark = pytest.mark.slow

# -- what is refused -----------------------------------------------------------------------------

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
