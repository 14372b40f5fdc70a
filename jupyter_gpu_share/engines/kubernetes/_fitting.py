"""Whether a size can be had now, by what is known of the cluster. Pure."""

from __future__ import annotations

from ...errors import NoGpuError
from ...size import Size
from ._cluster import Cluster
from .backends import Facts

__all__ = ["why_not"]


def why_not(cluster: Cluster, size: Size, facts: Facts) -> str | None:
    """Why a size cannot be had at once; None if it can."""
    if size.is_none:
        return None
    try:
        facts = cluster.facts_for(size, facts)
        cluster.backend.render(size, facts)
        room = cluster.backend.room(size, facts)
    except NoGpuError as error:
        return str(error)
    if room >= size.count:
        return None
    if cluster.backend.reads & facts.missing:
        return None  # what is free is not known to this server: the scheduler will tell
    return f"No GPU of the cluster has {size} free now."
