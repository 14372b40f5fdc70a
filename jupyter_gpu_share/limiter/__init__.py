"""A service of root's that has NVIDIA's driver limit the GPU memory of kernels.

The driver (from 615 on) keeps such limits for control groups of Linux, and only root may set them.
The service sets them for whoever may reach its socket, and moves a process into a group when that
process asks for it: never another's. It is a program of its own and reads nothing of a Jupyter
server; the engine ``local`` is its client. See docs/local-engine.md.
"""
