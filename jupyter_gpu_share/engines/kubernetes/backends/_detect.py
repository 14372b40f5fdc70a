"""Which sharing backends there are, and which of them a cluster offers."""

from __future__ import annotations

from ._base import Backend, Facts
from ._device_plugin import DevicePluginBackend
from ._dra import DraBackend
from ._hami import HamiBackend
from ._kai import KaiBackend
from ._mig import MigBackend

__all__ = ["BACKENDS", "detect"]

#: The best first: those that know memory in bytes, then those that know units only; and walls
#: before none. KAI gives no parts of GPUs that a DRA driver offers, and GPUs of HAMi look like
#: those of NVIDIA's device plugin.
BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (DraBackend, KaiBackend, HamiBackend, MigBackend, DevicePluginBackend)
}


def detect(facts: Facts) -> tuple[str, ...]:
    """Names of the backends that the cluster offers, the best first.

    DRA drivers offer whole GPUs before they are told to share them: those that share come first.
    Where nothing is there yet, those by which declared kinds of nodes would be split.
    """
    found = tuple(name for name, backend in BACKENDS.items() if backend.offered(facts))
    if found[:1] == ("dra",) and not DraBackend.shares(facts):
        sharing = [name for name in found[1:] if BACKENDS[name].shares(facts)]
        return (*sharing, *(name for name in found if name not in sharing))
    if found or not facts.kinds:
        return found
    whole = all(kind.told.replicas == 1 for kind in facts.kinds)
    partitioned = any(kind.told.profile for kind in facts.kinds)
    return (("mig" if whole and partitioned else "device-plugin"),)
