"""Settings of libraries on which values depend: plain data, back before the variables.

Nothing is imported that is not there already when a session is looked at.
"""

import importlib
import sys

__all__ = ["PARTS"]

_JAX = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_disable_jit",
    "jax_log_compiles",
)
_CUDNN = ("benchmark", "deterministic", "allow_tf32", "enabled")


def _torch(shell):
    torch = sys.modules["torch"]
    return {
        "dtype": str(torch.get_default_dtype()).rpartition(".")[2],
        "deterministic": [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ],
        "precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in _CUDNN},
    }


def _put_torch(shell, found):
    torch = importlib.import_module("torch")
    if torch.get_default_dtype() != getattr(torch, found["dtype"]):
        torch.set_default_dtype(getattr(torch, found["dtype"]))
    enabled, warn_only = found["deterministic"]
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    if torch.get_float32_matmul_precision() != found["precision"]:
        torch.set_float32_matmul_precision(found["precision"])
    if torch.get_num_threads() != found["threads"]:
        torch.set_num_threads(found["threads"])
    torch.set_grad_enabled(found["gradients"])
    torch.autograd.set_detect_anomaly(found["anomalies"])
    for name, value in found["cudnn"].items():
        if getattr(torch.backends.cudnn, name) != value:
            setattr(torch.backends.cudnn, name, value)


def _jax(shell):
    config = sys.modules["jax"].config
    return {name: getattr(config, name) for name in _JAX if hasattr(config, name)}


def _put_jax(shell, found):
    config = importlib.import_module("jax").config
    for name, value in found.items():
        if getattr(config, name) != value:
            config.update(name, value)


def _sklearn(shell):
    config = sys.modules["sklearn"].get_config()
    return {key: value for key, value in config.items() if isinstance(value, (str, int, float))}


def _put_sklearn(shell, found):
    importlib.import_module("sklearn").set_config(**found)


def _plotly(shell):
    plotly = sys.modules["plotly.io"]
    return {"template": plotly.templates.default, "renderer": plotly.renderers.default}


def _put_plotly(shell, found):
    plotly = importlib.import_module("plotly.io")
    plotly.templates.default = found["template"]
    plotly.renderers.default = found["renderer"]


PARTS = {
    "torch": (_torch, _put_torch),
    "jax": (_jax, _put_jax),
    "sklearn": (_sklearn, _put_sklearn),
    "plotly": (_plotly, _put_plotly),
}
