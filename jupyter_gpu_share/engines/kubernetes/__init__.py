"""The engine ``kubernetes``: kernels as pods, on shares that the cluster's own scheduler grants."""

from ._brokered import BrokeredEngine
from ._engine import KubernetesEngine
from ._everybody import everybody

__all__ = ["BrokeredEngine", "KubernetesEngine", "everybody"]
