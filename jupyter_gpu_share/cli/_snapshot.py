"""``jupyter gpu-share snapshot``: the command of what saves variables, with nothing to set up.

The files that run in kernels are importable in kernels only. What runs here becomes a Python that
has them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..kernel_side import CLOUDPICKLE, PATH, cloudpickle

__all__ = ["snapshot"]

_CODE = (
    "import sys; sys.path.insert(0, {folder!r}); from gpu_share_kernel.snapshot import command; "
    "sys.path.remove({folder!r}); sys.exit(command.main(sys.argv[1:], {prog!r}))"
)


def snapshot(words: Sequence[str]) -> int:
    """Become the command of :mod:`gpu_share_kernel.snapshot`; returns only where that fails.

    Parameters
    ----------
    words: its arguments; ``--python PATH`` before them names another interpreter, such as that of
        the kernel which has saved a file.
    """
    python, rest = sys.executable, list(words)
    if rest[:1] == ["--python"]:
        if len(rest) < 2:
            print("gpu-share: --python needs the path of an interpreter", file=sys.stderr)
            return 2
        python, rest = rest[1], rest[2:]
    code = _CODE.format(folder=str(PATH), prog="jupyter gpu-share snapshot")
    sys.stdout.flush()
    try:
        os.execve(  # noqa: S606 - the arguments are its own
            python,
            [python, "-c", code, *rest],
            {**os.environ, CLOUDPICKLE: str(cloudpickle())},
        )
    except OSError as error:
        print(f"gpu-share: {python} cannot be run: {error.strerror}.", file=sys.stderr)
    return 1
