"""What a Jupyter server asks of a kernel while no cell runs.

The relay evaluates ``answer(...)`` in a silent cell and waits for the message that comes of it.
"""

from typing import Any  # noqa: F401 - in a comment

__all__ = ["answer"]


def answer(what, **arguments):
    """Do one thing, and tell whoever asked what came of it; never raises."""
    buffers = []
    try:
        result = _WORK[what](**arguments)
        if isinstance(result, bytes):
            result, buffers = len(result), [result]
        content = {"result": result}
    except BaseException as error:  # an interrupt too: who asks waits for an answer
        content = {"error": str(error) or type(error).__name__}
    kernel = _kernel()
    kernel.session.send(
        kernel.iopub_socket,
        "gpu_share_answer",
        content,
        parent=_parent(kernel),
        ident=b"gpu-share",
        buffers=buffers,
    )


def _kernel():
    from IPython import get_ipython

    return get_ipython().kernel


def _parent(kernel):
    """The message that is worked on, with its buffers."""
    return kernel.get_parent("shell")


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


def _limits():
    from gpu_share_kernel import limits

    return limits.look()


def _limit(limits):
    from gpu_share_kernel import limits as own

    own.change(limits)


def _save(path, limit, allowed):
    from gpu_share_kernel import snapshot

    return snapshot.save(path, limit, allowed)


def _restore(path):
    from gpu_share_kernel import snapshot

    return snapshot.restore(path)


def _scratch():
    """A new empty file in this kernel's own folder for temporary files; its path."""
    import os
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
    import os

    if os.path.exists(path):
        os.unlink(path)


_WORK = {
    "signs": _signs,
    "survey": _survey,
    "vacate": _vacate,
    "resume": _resume,
    "limits": _limits,
    "limit": _limit,
    "save": _save,
    "restore": _restore,
    "scratch": _scratch,
    "read": _read,
    "append": _append,
    "remove": _remove,
}  # type: dict[str, Any]
