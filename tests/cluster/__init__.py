"""A real Kubernetes cluster of one node for the tests, made of ordinary packages.

Tests use the fixtures in `fixtures`; ``python -m tests.cluster up|down|status``, from the
repository's root, does the same by hand, and a cluster that is up is used by tests and left up.
Needed are Linux, root, Go, some 4 GiB of disk and as much memory; the first build takes minutes.
"""

from ._api import Api, ApiError
from ._errors import ClusterError
from ._programs import wait_for
from .cluster import Cluster
from .images import KERNEL as KERNEL_IMAGE

__all__ = ["KERNEL_IMAGE", "Api", "ApiError", "Cluster", "ClusterError", "wait_for"]
