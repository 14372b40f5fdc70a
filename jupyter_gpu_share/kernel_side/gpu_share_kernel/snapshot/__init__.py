"""Saves the variables of a kernel to a file, and brings them back in another kernel.

::

    from gpu_share_kernel import snapshot

    snapshot.survey()        # what a save would keep, and what not; nothing is written
    snapshot.save(path)
    snapshot.restore(path)   # in a new kernel, before its first cell

Called on the kernel's main thread while no cell runs. All of them answer with plain data, whatever
the variables are and do; what cannot be done at all is a :class:`Refused` with a sentence.

A snapshot is code of the user's own: it may be loaded only into a kernel of the same user, from
where nobody else can write.
"""

from gpu_share_kernel.snapshot.restoring import receive, restore
from gpu_share_kernel.snapshot.saving import save, survey, write
from gpu_share_kernel.snapshot.words import Refused

__all__ = ["Refused", "receive", "restore", "save", "survey", "write"]
