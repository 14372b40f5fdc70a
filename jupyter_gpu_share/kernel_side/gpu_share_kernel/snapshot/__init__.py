"""Saves variables to a file, and brings them back in another process.

::

    from gpu_share_kernel import snapshot

    snapshot.survey()        # what a save would keep, and what not; nothing is written
    snapshot.save(path)
    snapshot.restore(path)   # in a new process

The variables are those of the shell of IPython that runs here, a kernel's or any other; where none
runs, those of ``__main__``. Called on the main thread, in a kernel while no cell runs. All of them
answer with plain data, whatever the variables are and do; what cannot be done at all is a
:class:`Refused` with a sentence.

A snapshot is code of the user's own: one that somebody else can have written is not loaded.

The same as a command, for scripts: ``python -m gpu_share_kernel.snapshot`` (:mod:`command`).
"""

from gpu_share_kernel.snapshot.restoring import receive, restore
from gpu_share_kernel.snapshot.saving import save, survey, write
from gpu_share_kernel.snapshot.words import Refused

__all__ = ["Refused", "receive", "restore", "save", "survey", "write"]
