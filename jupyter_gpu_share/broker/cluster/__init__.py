"""The broker in a cluster: kernels of all users of a JupyterHub in pods."""
