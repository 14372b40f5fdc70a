"""Fakes of frameworks, of a few lines: the real ones are large."""

from __future__ import annotations

from pathlib import Path

FAKE_TORCH = """
calls, queued = [], []
class _Properties:
    total_memory, uuid = 80 * 2**30, "0"
def device_count(): return 2
def get_device_properties(device): return _Properties
def current_device(): return 1
def set_per_process_memory_fraction(fraction, device=None):
    init()
    if not 0 <= fraction <= 1: raise ValueError(fraction)
    number = 1 if device is None else device
    calls.append((fraction, int(str(number).rpartition(":")[2])))
ready = []
def is_initialized(): return bool(ready)
def _lazy_call(function): function() if ready else queued.append(function)
def init():
    if ready: return
    ready.append(True)
    for function in queued: function()
def empty_cache(): calls.append("empty_cache")
"""
FAKE_CUPY = """
import os
limits, freed, current = {}, [], [0]
class cuda:
    class runtime:
        @staticmethod
        def getDeviceCount(): return 2
    class Device:
        def __init__(self, number): self.number = number
        def __enter__(self): self.before, current[0] = current[0], self.number
        def __exit__(self, *error): current[0] = self.before
class Pool:
    def set_limit(self, size=None): limits[current[0]] = size
    def get_limit(self):
        return limits.setdefault(current[0], int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", "0")))
    def free_all_blocks(self): freed.append(True)
def get_default_memory_pool(): return Pool()
"""
FAKE_TENSORFLOW = """
import collections
_LOGICAL = collections.namedtuple("_LOGICAL", "memory_limit experimental_priority")
class config:
    limits = []
    class LogicalDeviceConfiguration(_LOGICAL):
        def __new__(cls, memory_limit=None, experimental_priority=None):
            return super().__new__(cls, memory_limit, experimental_priority)
    @staticmethod
    def list_physical_devices(kind): return ["gpu0"]
    @classmethod
    def set_logical_device_configuration(cls, device, logical):
        cls.limits.append((device, *(each.memory_limit for each in logical)))
    class experimental:
        @staticmethod
        def set_virtual_device_configuration(device, logical):
            raise AssertionError("the older name of the other one")
        @staticmethod
        def set_memory_growth(device, enable):
            raise ValueError("Cannot set memory growth on device when virtual devices configured")
"""


def write_fakes(folder: Path) -> Path:
    """Make a folder one of modules: the fakes of PyTorch and TensorFlow."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("from . import cuda\n")
    (folder / "torch" / "cuda.py").write_text(FAKE_TORCH)
    (folder / "tensorflow.py").write_text(FAKE_TENSORFLOW)
    return folder
