"""One controller for each kernel: its states, its works, and all kernels of the process.

Nothing is imported here: a server that only looks for saved variables needs no relay.
"""
