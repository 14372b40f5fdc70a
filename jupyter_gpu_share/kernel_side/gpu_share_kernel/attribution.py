"""Output of threads stays under the cell that started them, though the server asks meanwhile.

ipykernel takes what a thread prints for output of the latest request. A question of the server is
such a request, of which no page knows. It names the latest cell in its metadata; that becomes the
parent of all output but the question's own.

Of ipykernel 6.29 to 7.4 each keeps the parent in other places. Where one is not there, nothing is
done: output then has the parent that ipykernel gives it.
"""

import contextlib
import contextvars
import sys

from gpu_share_kernel import interrupts

__all__ = ["follow", "settle"]


def settle(kernel, question):
    """Make the cell that ``question`` names the parent of what threads put out; never raises."""
    if not _is_question(question):
        return
    named = question["metadata"]["gpu_share"].get("last_cell")
    # ipykernel sorts output by all that a header has: it must be possible to hash that.
    header = {
        name: value
        for name, value in (named if isinstance(named, dict) else {}).items()
        if value is None or isinstance(value, (str, int, float))
    }
    message = {
        "header": header,
        "msg_id": header.get("msg_id", ""),
        "msg_type": header.get("msg_type", ""),
        "parent_header": {},
        "metadata": {},
        "content": {},
        "buffers": [],
    }  # type: dict[str, object]
    shell = getattr(kernel, "shell", None)
    for each in (
        sys.stdout,
        sys.stderr,
        getattr(shell, "displayhook", None),
        getattr(shell, "display_pub", None),
    ):
        _put(each, header)
    _put(shell, message)
    with contextlib.suppress(Exception):
        if hasattr(kernel, "_new_threads_parent_header"):
            kernel._new_threads_parent_header = header
    with contextlib.suppress(Exception):
        # What threads without a context of their own, and their comms, ask.
        if hasattr(kernel, "_shell_context"):
            context = contextvars.copy_context()
            context.run(kernel._shell_parent.set, message)
            kernel._shell_context = context


def _put(where, parent):
    """Set the parent of threads that have none; the one of this thread is left alone."""
    with contextlib.suppress(Exception):
        if hasattr(where, "_parent_header_global"):
            where._parent_header_global = parent
        elif isinstance(getattr(where, "_parent_header", None), contextvars.ContextVar):
            pass  # it knows no other threads
        elif hasattr(where, "parent_header"):
            where.parent_header = parent


def follow(kernel):
    """From the next question on, have nothing of it reach threads; never raises.

    Without that, what threads put out between the arrival of a question and its first line of
    Python had the question's parent, and an interrupt there would lose the reply.
    """
    if getattr(kernel, "_gpu_share_follows", None) is None:
        with contextlib.suppress(Exception):
            _follow(kernel, kernel.shell)
            kernel._gpu_share_follows = True


def _follow(kernel, shell):
    kernel_parent, shell_parent = kernel.set_parent, shell.set_parent
    before_handler = kernel.pre_handler_hook

    def set_kernel_parent(ident, parent, *args, **kwargs):
        context = getattr(kernel, "_shell_context", None)
        kernel_parent(ident, parent, *args, **kwargs)
        if context is not None and _is_question(parent):
            kernel._shell_context = context

    def set_shell_parent(parent):
        if not _is_question(parent):
            shell_parent(parent)
        elif hasattr(shell, "set_thread_parent"):
            shell.set_thread_parent(parent)
        else:
            shell_parent(parent)
            settle(kernel, parent)

    def pre_handler_hook():
        before_handler()
        # The hook after the handler sets the handler of SIGINT that was there before.
        if _is_question(kernel.get_parent("shell")):
            interrupts.begin()

    kernel.set_parent = set_kernel_parent
    shell.set_parent = set_shell_parent
    kernel.pre_handler_hook = pre_handler_hook


def _is_question(message):
    try:
        return isinstance(message["metadata"].get("gpu_share"), dict)
    except Exception:
        return False
