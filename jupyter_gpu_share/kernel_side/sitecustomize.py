"""Puts soft caps into frameworks that a kernel imports later. Python imports this when it starts.

A ``sitecustomize`` of the environment itself, hidden by this one, is run as well. Any Python that a
kernel starts finds this file: those before 3.8 do nothing else, and say nothing.
"""

import os
import sys


def _run_hidden():
    """Run the sitecustomize that would have been found without this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    if sys.version_info < (3, 5):
        _run_hidden_of_old(others)
        return
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _run_hidden_of_old(others):
    imp = __import__("imp")  # newer versions have none
    try:
        found = imp.find_module("sitecustomize", others)
    except ImportError:
        return
    imp.load_module("sitecustomize", *found)


_ours = os.environ.get("JUPYTER_GPU_SHARE_UUID") or "JUPYTER_GPU_SHARE_VISIBLE" in os.environ
if sys.version_info >= (3, 8) and _ours:
    try:
        from gpu_share_kernel import caps

        caps.install()
    except Exception as error:  # a kernel without soft caps is better than none
        sys.stderr.write("gpu-share: frameworks are not capped: %s\n" % error)

_run_hidden()
