"""A FAKE of `torch.cuda`: it takes memory of the FAKE driver and counts it, its context not."""

import types

import fake_gpu_program as gpu

_TOTAL = 16 * 2**30
_queued, _arrays = [], []
_begun = False
fraction = 1.0


def _lazy_call(call):
    call() if _begun else _queued.append(call)


def is_initialized():
    return _begun


def device_count():
    return 2


def get_device_properties(device):
    return types.SimpleNamespace(total_memory=_TOTAL, uuid="")


def set_per_process_memory_fraction(part, device):
    global fraction
    fraction = part


def memory_reserved(device=0):
    return sum(nbytes for _, nbytes, where in _arrays if where == device)


def empty_cache():
    pass


def fill():
    """What a training does: take all that it may have, MiB by MiB; how much that was."""
    global _begun
    gpu.context()
    _begun = True
    while _queued:
        _queued.pop()()
    nbytes = 2**30
    while nbytes >= 2**20:
        if memory_reserved() + nbytes > fraction * _TOTAL:
            nbytes //= 2
        else:
            take(nbytes)
    return memory_reserved()


def take(nbytes, device=0):
    global _begun
    _begun = True
    _arrays.append((gpu.Array(nbytes, device), nbytes, device))
