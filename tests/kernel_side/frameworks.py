"""Fakes of frameworks, of a few lines: the real ones are large."""

FAKE_TORCH = """
calls, queued = [], []
class _Properties:
    total_memory = 80 * 2**30
def device_count(): return 2
def get_device_properties(device): return _Properties
def set_per_process_memory_fraction(fraction, device): calls.append((fraction, device))
def _lazy_call(function): queued.append(function)
def init():
    for function in queued: function()
"""
FAKE_TENSORFLOW = """
class config:
    limits = []
    class LogicalDeviceConfiguration:
        def __init__(self, memory_limit): self.memory_limit = memory_limit
    @staticmethod
    def list_physical_devices(kind): return ["gpu0"]
    @classmethod
    def set_logical_device_configuration(cls, device, logical):
        cls.limits.append((device, logical[0].memory_limit))
"""
