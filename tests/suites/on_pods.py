"""A pytest plugin for other projects' suites: their kernels run in pods.

Suites make kernel managers without any configuration. The runtime of this process, and of those
that are forked from it, gets that of ``jupyter_config.json`` in ``JUPYTER_CONFIG_PATH``, which
applications that the suites start read by themselves.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from traitlets.config import Config

from jupyter_gpu_share.runtime import Runtime

_FILE = Path(os.environ["JUPYTER_CONFIG_PATH"]) / "jupyter_config.json"
_CONFIG = Config(json.loads(_FILE.read_text()))
_instance = Runtime.instance


def _on_pods(config: Config | None = None) -> Runtime:
    return _instance(_CONFIG)


Runtime.instance = _on_pods  # type: ignore[method-assign]
