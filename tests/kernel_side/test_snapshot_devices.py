"""Arrays of a GPU, of fakes of the frameworks that are a page long: the real ones are large.

What the fakes have is what a snapshot touches, as the real ones have it. Their GPUs are memory of
this machine, and their number is that in ``FAKE_GPUS``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sessions import Session, Sessions

pytestmark = pytest.mark.slow

FAKE_TORCH = """
import ctypes, os, types
here = []       # storages on the host that were made as copies, while they are there
most = 0        # of them at once
class _Device:
    def __init__(self, text):
        self.type, _, index = str(text).partition(":")
        self.index = int(index) if index else None
    def __str__(self): return self.type if self.index is None else f"{self.type}:{self.index}"
class UntypedStorage:
    def __init__(self, size, device="cpu"):
        self.device = _Device(device)
        self._data = (ctypes.c_ubyte * size)()
    def nbytes(self): return len(self._data)
    def data_ptr(self): return ctypes.addressof(self._data) if len(self._data) else 0
    def cpu(self):
        global most
        copy = UntypedStorage(self.nbytes())
        ctypes.memmove(copy._data, self._data, self.nbytes())
        copy.__class__ = _Copy
        here.append(copy.data_ptr()); most = max(most, len(here))
        return copy
    def __reduce__(self): raise TypeError("storages have a way of their own")
class _Copy(UntypedStorage):
    def __del__(self): here.remove(self.data_ptr())
class TypedStorage:
    def __init__(self, *, wrap_storage, dtype, _internal):
        self._untyped_storage, self.dtype = wrap_storage, dtype
    def __reduce__(self): raise TypeError("storages have a way of their own")
UntypedStorage.__module__ = TypedStorage.__module__ = "torch.storage"
storage = types.SimpleNamespace(UntypedStorage=UntypedStorage, TypedStorage=TypedStorage)
uint8 = "uint8"
class Tensor:
    is_leaf, grad = True, None
    def __init__(self, storage, dtype=uint8): self._storage, self.dtype = storage, dtype
    @property
    def device(self): return str(self._storage.device)
    def set_(self, storage): self._storage = storage; return self
    def copy_(self, source):
        data = source._storage._data
        ctypes.memmove(self._storage._data, data, len(data)); return self
    def untyped_storage(self): return self._storage
    def __getitem__(self, n): return self._storage._data[n]
    def __setitem__(self, n, value): self._storage._data[n] = value
    def __reduce_ex__(self, protocol):
        fresh = UntypedStorage(0, self.device)  # a new object for the same memory, each time
        fresh._data = self._storage._data
        typed = TypedStorage(wrap_storage=fresh, dtype=self.dtype, _internal=True)
        return _rebuild_tensor, (typed,)
def _rebuild_tensor(typed): return Tensor(typed._untyped_storage, typed.dtype)
def tensor(size, value, device="cpu"):
    made = Tensor(UntypedStorage(size, device))
    ctypes.memset(made._storage._data, value, size)
    return made
def empty(size, dtype=uint8, device="cpu"): return Tensor(UntypedStorage(size, device), dtype)
def frombuffer(data, dtype):
    made = Tensor(UntypedStorage(0))
    made._storage._data = (ctypes.c_ubyte * len(data)).from_buffer(data)
    return made
class cuda:
    is_available = staticmethod(lambda: int(os.environ["FAKE_GPUS"]) > 0)
    device_count = staticmethod(lambda: int(os.environ["FAKE_GPUS"]))
    is_initialized = staticmethod(lambda: False)
class random:
    state = tensor(40, 0)
    get_rng_state = staticmethod(lambda: random.state)
    @staticmethod
    def set_rng_state(state): random.state = state
"""
FAKE_CUPY = """
import os, types, numpy
copies = []
class ndarray:
    def __init__(self, host, number):
        self._host, self.device = host, types.SimpleNamespace(id=number)
    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    nbytes = property(lambda self: self._host.nbytes)
    def get(self, order): copies.append(self.nbytes); return numpy.array(self._host, order=order)
    def __reduce__(self): raise TypeError("not this way")
current = 0
def array(host): return ndarray(numpy.array(host), current)
class _Chosen:
    def __init__(self, number): self.number = number
    def __enter__(self): global current; self.before, current = current, self.number
    def __exit__(self, *_): global current; current = self.before
class cuda:
    Device = _Chosen
    class runtime:
        getDeviceCount = staticmethod(lambda: int(os.environ["FAKE_GPUS"]))
"""
FAKE_JAX = """
import os, numpy
copies = []
class Device:
    def __init__(self, platform, id): self.platform, self.id = platform, id
class Array:
    def __init__(self, host, device): self._host, self._device, self._npy_value = host, device, None
    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    nbytes = property(lambda self: self._host.nbytes)
    def devices(self): return {self._device}
    def block_until_ready(self): return self
    def __array__(self, dtype=None, copy=None):
        copies.append(self.nbytes); self._npy_value = self._host; return self._host
    def __reduce__(self): raise TypeError("not this way")
class config: jax_enable_x64 = False
class enable_x64:
    def __init__(self, on): self.on = on
    def __enter__(self): self.before, config.jax_enable_x64 = config.jax_enable_x64, self.on
    def __exit__(self, *error): config.jax_enable_x64 = self.before
def devices(platform=None):
    number = int(os.environ["FAKE_GPUS"])
    if platform == "gpu" and not number: raise RuntimeError("Unknown backend gpu")
    gpus = [Device("gpu", n) for n in range(number)]
    return gpus if gpus and platform != "cpu" else [Device("cpu", 0)]
def device_put(host, device):
    host = numpy.array(getattr(host, "_host", host))
    narrow = {"f8": "f4"}.get(host.dtype.str[1:]) if not config.jax_enable_x64 else None
    if narrow: host = host.astype(narrow)
    return Array(host, device)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sessions]:
    """The kernels of these tests."""
    with closing(Sessions(tmp_path_factory.mktemp("sessions"), ahead=0)) as made:
        yield made


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fakes."""
    folder = tmp_path_factory.mktemp("fakes")
    for name, text in (("torch", FAKE_TORCH), ("cupy", FAKE_CUPY), ("jax", FAKE_JAX)):
        (folder / f"{name}.py").write_text(text)
    return folder


def moved(house: Sessions, fakes: Path, code: str, gpus: int = 2) -> tuple[Session, str]:
    """A kernel with so many GPUs, with the variables of one with two; and what the user is told."""
    first, second = (house.start(path=[fakes], FAKE_GPUS=str(n)) for n in (2, gpus))
    first.run(code)
    size = first.ask("survey()")["bytes"]
    for name in ("cupy", "jax"):
        assert first.value(f"{name}.copies if '{name}' in globals() else []") == []
    assert first.value("torch.most if 'torch' in globals() else 0") == 0
    manifest = first.ask(f"save({str(house.file)!r})")
    assert manifest["lost"] == []
    assert manifest["bytes"] * 0.9 < size < manifest["bytes"] * 1.1
    said = second.ask(f"restore({str(house.file)!r})")
    assert said["failed"] == []
    if "torch" in code:
        assert first.value("[torch.most <= 1, torch.here]") == [True, []], "one copy at a time"
    first.close()
    return second, said["line"]


def test_what_fake_tensors_would_leave_out_is_kept_or_told(house: Sessions, fakes: Path) -> None:
    first, second = (house.start(path=[fakes], FAKE_GPUS="0") for _ in range(2))
    first.run(
        "import torch, numpy as np\n"
        "class Step:\n"
        "    next_functions = ()\n"
        "    def __init__(self, spent): self.spent = spent\n"
        "    @property\n"
        "    def _saved_self(self):\n"
        "        if self.spent: raise RuntimeError('freed')\n"
        "        return torch.Tensor\n"
        "torch.Tensor.grad_fn = None\n"
        "torch.Tensor.detach = lambda self: torch.Tensor(self._storage)\n"
        "def made(value, **more):\n"
        "    tensor = torch.tensor(9, value); vars(tensor).update(more); return tensor\n"
        "loss = made(1, is_leaf=False, grad_fn=Step(False))\n"
        "spent = made(2, is_leaf=False, grad_fn=Step(True))\n"
        "held = made(3, is_shared=lambda: True)\n"
        "hooked = made(4, _backward_hooks={0: lambda gradient: gradient * 2})\n"
        "kept = hooked._backward_hooks"
    )
    why = {row["name"]: row["why"] for row in first.ask("survey()")["lost"]}
    assert why == {
        "loss": "a Tensor cannot be saved: gradients could not be computed through it any more",
        "held": "a Tensor cannot be saved: its memory is shared with other processes",
    }
    first.ask(f"save({str(house.file)!r})")
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("[spent[0], hooked[0], hooked._backward_hooks is kept, kept[0](4)]") == [
        2,
        4,
        True,
        8,
    ]


def test_numbers_of_64_bits_stay_so_in_a_fake_jax(house: Sessions, fakes: Path) -> None:
    first, second = (house.start(path=[fakes], FAKE_GPUS="0") for _ in range(2))
    first.run("import jax, numpy as np\nwide = jax.Array(np.array([0.1]), jax.devices()[0])")
    first.ask(f"save({str(house.file)!r})")
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("[str(wide.dtype), wide._host[0], jax.config.jax_enable_x64]") == [
        "float64",
        0.1,
        False,
    ]


TENSORS = (
    "import torch\n"
    "one = torch.tensor(100_000, 1, 'cuda:1'); shown = torch.Tensor(one._storage, 'float32')\n"
    "other = torch.tensor(100_000, 2, 'cuda:0'); host = torch.tensor(100_000, 3)\n"
    "again = torch.Tensor(host._storage); both = [one, {'a': one, 'b': host}]\n"
    "large = torch.tensor(20_000_000, 5); part = torch.Tensor(large._storage)\n"
    "one.grad = torch.tensor(10, 7, 'cuda:1'); none = torch.tensor(0, 0, 'cuda:0')\n"
    "torch.random.state = torch.tensor(40, 9)"
)
SAME = (
    "[one[99_999], other[5], host[7], shown.dtype, both[0] is one is both[1]['a'],"
    " one.grad[9], torch.random.state[3]]"
)


def test_tensors_of_a_fake_torch_come_back_to_the_same_device(house: Sessions, fakes: Path) -> None:
    kernel, line = moved(house, fakes, TENSORS)
    assert kernel.value(SAME) == [1, 2, 3, "float32", True, 7, 9]
    devices = "[t.device for t in (one, shown, other, host, one.grad, none)]"
    assert kernel.value(devices) == ["cuda:1", "cuda:1", "cuda:0", "cpu", "cuda:1", "cuda:0"]
    kernel.run("one[4] = 40; host[4] = 41; large[19_999_999] = 42")
    shared = kernel.value("[shown[4], again[4], part[19_999_999], part[7]]")
    assert shared == [40, 41, 42, 5], "memory is shared as before"
    assert "GPU" not in line


@pytest.mark.parametrize(
    ("gpus", "device", "note"),
    [
        (1, "cuda:0", "arrays of several GPUs are on the first one, for there are fewer now"),
        (0, "cpu", "arrays of the GPU are in the machine's memory, for there is no GPU now"),
    ],
)
def test_with_fewer_gpus_tensors_of_a_fake_torch_are_elsewhere_but_there(
    house: Sessions, fakes: Path, gpus: int, device: str, note: str
) -> None:
    kernel, line = moved(house, fakes, TENSORS, gpus)
    assert kernel.value(SAME) == [1, 2, 3, "float32", True, 7, 9]
    assert kernel.value("[one.device, shown.device]") == [device] * 2
    assert line.endswith(f"; {note}.")


def test_arrays_of_a_fake_cupy_and_a_fake_jax_come_back(house: Sessions, fakes: Path) -> None:
    code = (
        "import cupy, jax, numpy as np\n"
        "grid = np.arange(30_000.0).reshape(100, 300)\n"
        "c = cupy.ndarray(grid.T, 1); small = cupy.ndarray(np.arange(3), 0); held = [c]\n"
        "j = jax.device_put(grid, jax.devices('gpu')[1]); pair = (j, j)\n"
    )
    same = (
        "[bool((c._host == grid.T).all()), c.shape, c.device.id, small.device.id, held[0] is c,"
        " small._host.tolist(), bool((j._host == grid).all()), j._device.id, pair[0] is pair[1],"
        " c._host.flags.writeable]"
    )
    kernel, line = moved(house, fakes, code)
    expected = [True, [300, 100], 1, 0, True, [0, 1, 2], True, 1, True, True]
    assert kernel.value(same) == expected
    assert "GPU" not in line
    kernel, line = moved(house, fakes, code, 1)
    assert kernel.value("[c.device.id, j._device.id]") == [0, 0]
    assert "on the first one" in line


def test_jax_does_not_keep_the_copy_of_a_fake_array(house: Sessions, fakes: Path) -> None:
    kernel = house.start(path=[fakes], FAKE_GPUS="1")
    kernel.run("import jax, numpy as np\nj = jax.device_put(np.arange(9.0), jax.devices()[0])")
    kernel.ask(f"save({str(house.file)!r})")
    assert kernel.value("[len(jax.copies), j._npy_value]") == [1, None]
    # A JAX that was told to have GPUs only is asked in the usual way.
    kernel.run(
        "def devices(platform=None):\n"
        "    if platform == 'cpu': raise RuntimeError('no cpu')\n"
        "    return [j._device]\n"
        "jax.devices = devices"
    )
    manifest = kernel.ask(f"save({str(house.file)!r})")
    assert [manifest["lost"], kernel.value("len(jax.copies)")] == [[], 2]


def test_no_framework_is_imported_that_the_user_has_not_imported(
    house: Sessions, fakes: Path
) -> None:
    first, second = (house.start(path=[fakes], FAKE_GPUS="1") for _ in range(2))
    first.run("import numpy as np; a = np.arange(5)")
    first.ask("survey()")
    first.ask(f"save({str(house.file)!r})")
    second.ask(f"restore({str(house.file)!r})")
    for kernel in (first, second):
        code = "[n for n in ('torch', 'cupy', 'jax', 'pandas') if n in __import__('sys').modules]"
        assert kernel.value(code) == []


def test_simulated_memory_is_taken_anew(house: Sessions, tmp_path: Path) -> None:
    share = {
        "JUPYTER_GPU_SHARE_UUID": "SIM-0",
        "JUPYTER_GPU_SHARE_MEMORY_BYTES": str(2**31),
        "JUPYTER_GPU_SHARE_SIMULATED_BYTES": str(2**31),
        "JUPYTER_GPU_SHARE_SIMULATED_DIR": str(tmp_path),
    }
    first = house.start(**share)
    first.run("from gpu_share_kernel import simulated\nt = simulated.allocate('1GiB'); l = [t]")
    first.ask(f"save({str(house.file)!r})")
    first.close()
    second = house.start(**share)
    assert second.ask(f"restore({str(house.file)!r})")["failed"] == []
    assert second.value("[simulated.memory()[0], l[0] is t]") == [2**30, True]
