"""Kernels in pods, beside gateway_provisioners, a bare pod and a direct connection.

Everything runs on the test cluster of ``tests/cluster``. Each contender is a process of its own
(`child`), which works only while it is asked to: one that is measured has the machine for itself.
"""
