"""What a Jupyter server asks of a kernel while no cell runs.

The relay evaluates ``answer(...)`` in a silent cell and waits for the message that comes of it. The
metadata of the cell's message has ``gpu_share``, a dict: ``last_cell`` is the header of the latest
cell of a client, or None.
"""

import os
from typing import Any  # noqa: F401 - in a comment

from gpu_share_kernel import attribution, interrupts

__all__ = ["INTERRUPTED", "VERSION", "answer"]

#: Of what can be asked and answered here; it grows with each change that a server must know of.
VERSION = 1
#: The error that answers a question which an interrupt has cut short.
INTERRUPTED = "interrupted"
#: What can be cut short by an interrupt, and has changed nothing then. All else goes on to its end.
_INTERRUPTIBLE = frozenset(["limits", "save", "signs", "survey"])


def answer(what, **arguments):
    """Do one thing, and tell whoever asked what came of it; never raises."""
    kernel = _kernel()
    parent = _parent(kernel)
    with interrupts.noted():
        attribution.follow(kernel)
        attribution.settle(kernel, parent)
        buffers = []
        try:
            try:
                with interrupts.allowed(what in _INTERRUPTIBLE):
                    result = _WORK[what](**arguments)
                if isinstance(result, bytes):
                    result, buffers = len(result), [result]
                content = {"result": result}
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # who asks waits for an answer
                content = {"error": str(error) or type(error).__name__}
        except KeyboardInterrupt:
            content = {"error": INTERRUPTED}
        kernel.session.send(
            kernel.iopub_socket,
            "gpu_share_answer",
            content,
            parent=parent,
            ident=b"gpu-share",
            buffers=buffers,
        )
        attribution.settle(kernel, parent)


def _kernel():
    from IPython import get_ipython

    return get_ipython().kernel


def _parent(kernel):
    """The message that is worked on, with its buffers."""
    return kernel.get_parent("shell")


def _present():
    """That these files are there, and what the kernel knows of its share. Takes no time.

    It is asked before the first cell.
    """
    from gpu_share_kernel import chosen

    chosen.watch()
    return {"version": VERSION, "memory_bytes": os.environ.get("JUPYTER_GPU_SHARE_MEMORY_BYTES")}


def _signs():
    """What still works in this kernel, and how its GPU's memory could be moved away."""
    from gpu_share_kernel import background, vacate

    return {"background": background.running(), "vacate": vacate.plan()}


def _survey():
    from gpu_share_kernel import snapshot

    return snapshot.survey()


def _vacate():
    from gpu_share_kernel import vacate

    return vacate.vacate()


def _resume(limits):
    """Move back onto the GPUs, with the limits that the share has now."""
    from gpu_share_kernel import limits as own
    from gpu_share_kernel import vacate

    own.tell(limits)
    vacate.resume()
    own.renew()


def _failed(why):
    """The server has seen that moving away did not work."""
    from gpu_share_kernel import vacate

    vacate.failed(why)


def _limits():
    from gpu_share_kernel import limits

    return limits.look()


def _limit(limits):
    from gpu_share_kernel import limits as own

    own.change(limits)


def _save(path, limit, allowed, **how):
    from gpu_share_kernel import snapshot

    return snapshot.save(path, limit, allowed, **how)


def _restore(path, digest):
    from gpu_share_kernel import snapshot

    return snapshot.restore(path, digest)


def _scratch():
    """A new empty file in this kernel's own folder for temporary files; its path."""
    import tempfile

    number, path = tempfile.mkstemp(prefix="gpu-share-", suffix=".kept")
    os.close(number)
    return path


def _read(path, start, length):
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(length)


def _append(path):
    """Add the buffers of the message to a file; its length."""
    with open(path, "ab") as file:
        for each in _parent(_kernel()).get("buffers") or []:
            file.write(each)
        return file.tell()


def _remove(path):
    if os.path.exists(path):
        os.unlink(path)


def _subshells(ids):
    """The ids of the subshells that were made; see :func:`gpu_share_kernel.subshells.make`."""
    from gpu_share_kernel import subshells

    return subshells.make(_kernel(), ids)


def _say(line):
    """Show a line above what the next cell prints: before any cell there is no place for one."""
    import sys

    events = _kernel().shell.events

    def tell(_info=None):
        events.unregister("pre_run_cell", tell)
        print(line, file=sys.stderr, flush=True)

    events.register("pre_run_cell", tell)


_WORK = {
    "present": _present,
    "say": _say,
    "subshells": _subshells,
    "signs": _signs,
    "survey": _survey,
    "vacate": _vacate,
    "resume": _resume,
    "failed": _failed,
    "limits": _limits,
    "limit": _limit,
    "save": _save,
    "restore": _restore,
    "scratch": _scratch,
    "read": _read,
    "append": _append,
    "remove": _remove,
}  # type: dict[str, Any]
