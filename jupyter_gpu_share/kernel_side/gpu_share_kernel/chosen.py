"""Says so where a cell has chosen a GPU without a share: at the end of that cell, whatever it uses.

The first lines of many notebooks set ``CUDA_VISIBLE_DEVICES`` to the number of a GPU, which may be
somebody else's. What is told goes to the cell's errors: filters of warnings do not hide it.
"""

import os
import sys

from gpu_share_kernel import cuda_signs, driver

__all__ = ["TOLD", "look", "say_used", "watch"]

#: Variable of a kernel's environment: what ``CUDA_VISIBLE_DEVICES`` was when the kernel began. Not
#: set: nothing but the share is there to be chosen, as in a pod.
TOLD = "JUPYTER_GPU_SHARE_VISIBLE"
_VISIBLE, _ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"

_watched = False
_said = set()  # type: set[str]


def watch():
    """Look after each cell that is run from now on. Idempotent."""
    global _watched
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and TOLD in os.environ else None
    if shell is not None and not _watched:
        shell.events.register("post_run_cell", look)
        _watched = True


def look(_result=None):
    """Say once of each choice that it is not of the share; never raises."""
    if TOLD not in os.environ:
        return
    try:
        name = _named()
        if name:
            _say(
                "this notebook has no share of what %s names now (%s). Others may have it: set it "
                "to %r again, and restart the kernel if it uses a GPU already."
                % (_VISIBLE, name, os.environ[TOLD])
            )
        own = cuda_signs.uuids()
        # Of an instance of MIG it is not certain whose name is told.
        if not any(uuid.startswith("MIG-") for uuid in own):
            for uuid in driver.contexts() or ():
                say_used(uuid)
    except Exception:  # what is not known is not told
        return


def say_used(uuid):
    """Say so where a GPU that is in use is not of the share."""
    if uuid not in cuda_signs.uuids():
        _say(
            "this notebook has no share of the GPU that it uses now (%s). Others may have it: "
            "leave %s as it is, and restart the kernel." % (uuid, _VISIBLE)
        )


def _named():
    """What is named that is not of the share; empty: nothing, or it is not known."""
    told, text = os.environ[TOLD], os.environ.get(_VISIBLE)
    if text == told:
        return ""
    own = cuda_signs.uuids()
    if text is None:  # CUDA takes the first of all then
        return "all" if set(cuda_signs.names() or ()) - set(own) else ""
    ours = _parts(told)
    for name in _parts(text):
        if name in ours or (name and any(uuid.startswith(name) for uuid in own)):
            continue
        if name.isdigit():
            if not _counts_alike():
                return ""
            known = cuda_signs.names()
            if known is None:
                return name if ours and all(each.isdigit() for each in ours) else ""
            if int(name) < len(known) and known[int(name)] in own:
                continue
            exists = int(name) < len(known)
        elif name.startswith("GPU-"):
            known = cuda_signs.names()
            exists = known is None or any(uuid.startswith(name) for uuid in known)
        else:
            exists = name.startswith("MIG-")
        # CUDA reads no further than to what it does not know.
        return name if exists else ""
    return ""


def _parts(text):
    return [part.strip() for part in text.split(",")]


def _counts_alike():
    """Whether CUDA numbers the GPUs as NVIDIA's library does. A daemon of MPS has its own."""
    mps = os.environ.get("JUPYTER_GPU_SHARE_ISOLATION") == "mps"
    return os.environ.get(_ORDER) == "PCI_BUS_ID" and not mps


def _say(text):
    if text not in _said:
        _said.add(text)
        sys.stderr.write("gpu-share: %s\n" % text)
