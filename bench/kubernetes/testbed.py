"""The test cluster, shared by all subjects of one run."""

from __future__ import annotations

import atexit
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tests.cluster import Cluster
from tests.cluster.build import why_not_here


@cache
def cluster() -> Cluster | None:
    """The cluster, started when it is first asked for; None where it cannot run, which is said.

    One that was up before stays up, as with ``JUPYTER_GPU_SHARE_KEEP_CLUSTER=1``.
    """
    reason = why_not_here()
    if reason:
        print(f"left out, as {reason}", file=sys.stderr, flush=True)
        return None
    keep = os.environ.get("JUPYTER_GPU_SHARE_KEEP_CLUSTER") == "1"
    found = Cluster()
    started = found.up(keep=keep)
    atexit.register(found.down if started and not keep else found.release)
    return found


@contextmanager
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace in which shares may be held by leases; all in it goes with it."""
    name = cluster.namespace(f"bench-{secrets.token_hex(4)}")
    try:
        yield name
    finally:
        cluster.delete_namespace(name, wait=True)
