"""Puts soft caps into frameworks that a kernel imports later. Python imports this when it starts.

A ``sitecustomize`` of the environment itself, hidden by this one, is run as well.
"""

import os
import sys


def _run_hidden():
    """Run the sitecustomize that would have been found without this folder."""
    from importlib.machinery import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("JUPYTER_GPU_SHARE_UUID"):
    try:
        from gpu_share_kernel import caps

        caps.install()
    except Exception as error:  # a kernel without soft caps is better than none
        sys.stderr.write("gpu-share: frameworks are not capped: %s\n" % error)

_run_hidden()
