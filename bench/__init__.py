"""Benchmarks: this provisioner beside jupyter_client's own, in one run."""
