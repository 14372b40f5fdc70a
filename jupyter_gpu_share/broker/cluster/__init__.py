"""The broker of a cluster: a service of its JupyterHub, which makes the pods of all users."""
