"""A picture of what idle policies come to."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..errors import GpuShareError
from ..idle.replay import Curve, Outcome

__all__ = ["check_plot", "plot"]

_KINDS = (".svg", ".png")


def check_plot(name: str) -> None:
    """See that a plot can be made, before the long work for it.

    Raises
    ------
    GpuShareError
    """
    path = Path(name)
    if path.suffix not in _KINDS:
        raise GpuShareError(f"A plot is a file ending in {' or '.join(_KINDS)}, not {path.name}")
    if not path.parent.is_dir():
        raise GpuShareError(f"There is no folder {path.parent} to write {path.name} to")
    try:
        found = importlib.util.find_spec("matplotlib")
    except ValueError:
        found = None
    if found is None:
        raise GpuShareError(
            "A plot needs matplotlib; install it with: pip install 'jupyter-gpu-share[plot]'"
        )


def plot(
    name: str,
    curve: Curve,
    limit: Sequence[tuple[float, float]],
    outcome: Outcome,
    rule: str,
) -> None:
    """Write a plot.

    Parameters
    ----------
    limit: parts of the bursts that wait, and of the idle GPU-hours that foresight returns then.
    outcome: of one policy, shown as a point.
    """
    # Without pyplot, which looks for a screen and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    lines = [
        ("perfect foresight", limit, ":"),
        ("adaptive", [(p.waiting, p.returned) for p in curve.shipped], "-"),
        ("adaptive, cross-validated", [(p.waiting, p.returned) for p in curve.judged], "--"),
        ("fixed timeout", [(p.waiting, p.returned) for p in curve.fixed], "-"),
    ]
    for label, points, style in lines:
        if points:
            axes.plot(
                [100 * x for x, _ in points], [100 * y for _, y in points], style, label=label
            )
    here = (100 * outcome.part_waiting, 100 * outcome.part_returned)
    axes.plot(*here, "o", color="black", label=f"as configured: {rule}")
    axes.set_xlabel("bursts that had to wait for a wake, %")
    axes.set_ylabel("idle GPU-hours returned, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    try:
        figure.savefig(name)
    except OSError as error:
        raise GpuShareError(f"{name} cannot be written: {error.strerror}") from error
