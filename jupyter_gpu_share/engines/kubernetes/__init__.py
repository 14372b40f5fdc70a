"""The engine ``kubernetes``: kernels as pods, on shares that the cluster's own scheduler grants."""

from ._engine import KubernetesEngine

__all__ = ["KubernetesEngine"]
