"""Fixtures for tests on the cluster; ``tests/conftest.py`` imports them.

``JUPYTER_GPU_SHARE_KEEP_CLUSTER=1`` leaves the cluster up for the next run, and
``JUPYTER_GPU_SHARE_REQUIRE_CLUSTER=1`` lets tests fail where it cannot run, instead of being
skipped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from ._errors import CannotRunError
from .build import why_not_here
from .cluster import Cluster

#: For ``pytestmark``: the first test that needs the cluster may wait for everything to be built.
CLUSTER_MARKS = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]

#: Labels that hold a namespace's pods to the restricted Pod Security Standard.
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


def _asked(what: str) -> bool:
    return os.environ.get(f"JUPYTER_GPU_SHARE_{what}_CLUSTER") == "1"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, built and started with the first test that uses it."""
    reason = why_not_here()
    if reason:
        if _asked("REQUIRE"):
            raise CannotRunError(reason)
        pytest.skip(reason)
    cluster = Cluster()
    keep = _asked("KEEP")
    started = cluster.up(keep=keep)
    yield cluster
    if keep or not started:
        # One that was up before the tests stays up after them.
        cluster.restore()
        cluster.release()
    else:
        cluster.down()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace with restricted Pod Security, which goes with the test."""
    name = cluster.namespace(f"test-{secrets.token_hex(4)}", RESTRICTED)
    yield name
    # A test that failed may have left programs stopped.
    cluster.restore()
    cluster.delete_namespace(name)
