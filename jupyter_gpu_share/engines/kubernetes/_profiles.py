"""What a size brings besides its share: an image, a pool of nodes, tolerations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import EngineError, SizeError
from ...size import Size
from ._kueue import wrong_queue
from .backends import Kind, Placement, Rendered

__all__ = ["Profile", "profiles"]

#: Names of the settings of a size, with what each is.
_FIELDS: dict[str, tuple[type, str]] = {
    "image": (str, "a text"),
    "model": (str, "a text"),
    "node_selector": (dict, "a dict"),
    "tolerations": (list, "a list"),
    "kueue_queue": (str, "a text"),
}


@dataclass(frozen=True)
class Profile:
    """What one size brings.

    Attributes
    ----------
    image: of its kernels; empty where it names none.
    placement: where they go, besides what holds for all kernels.
    queue: the LocalQueue of Kueue; empty for none, None for that of all kernels.
    """

    image: str = ""
    placement: Placement = Placement()  # noqa: RUF009 - it does not change
    queue: str | None = None

    def on(self, rendered: Rendered) -> Rendered:
        """What a pod of the size asks for, with this."""
        placement = self.placement + Placement(rendered.node_selector, rendered.tolerations)
        return replace(
            rendered,
            node_selector=placement.node_selector,
            tolerations=placement.tolerations,
        )


def profiles(
    entries: Mapping[str, Mapping[str, Any]], kinds: Sequence[Kind]
) -> dict[Size, Profile]:
    """``c.KubernetesEngine.sizes``, by size: however one is written, it is one.

    Raises
    ------
    EngineError: no size, one that is there twice, or a setting that makes no sense.
    """
    found: dict[Size, Profile] = {}
    for text, entry in entries.items():
        try:
            size = Size.parse(text)
        except SizeError as error:
            raise EngineError(f"c.KubernetesEngine.sizes: {error}.") from error
        wrong = "it is there twice" if size in found else _wrong(entry, kinds)
        if wrong is not None:
            raise EngineError(f"c.KubernetesEngine.sizes, {size}: {wrong}.")
        model = entry.get("model", "")
        kind = next((kind for kind in kinds if model and kind.told.model == model), None)
        own = Placement(dict(entry.get("node_selector", {})), entry.get("tolerations", []))
        found[size] = Profile(
            entry.get("image", ""),
            kind.placement + own if kind is not None else own,
            entry.get("kueue_queue"),
        )
    return found


def _wrong(entry: Mapping[str, Any], kinds: Sequence[Kind]) -> str | None:
    """What is wrong with an entry, the end of a sentence; None: nothing."""
    for name, value in entry.items():
        if name not in _FIELDS:
            return f"there is no {name}; there is {', '.join(_FIELDS)}"
        kind, words = _FIELDS[name]
        if not isinstance(value, kind):
            return f"{name} is {words}, not {value!r}"
    selector = entry.get("node_selector", {})
    if not all(isinstance(text, str) for pair in selector.items() for text in pair):
        return f"node_selector has texts only, not {selector!r}"
    if not all(isinstance(each, Mapping) for each in entry.get("tolerations", [])):
        return "tolerations are dicts, as in the spec of a pod"
    if (wrong := wrong_queue(entry.get("kueue_queue", ""))) is not None:
        return f"kueue_queue: {wrong}"
    model = entry.get("model")
    if model is not None and model not in [kind.told.model for kind in kinds]:
        return f"no entry of c.KubernetesEngine.kinds is of the model {model!r}"
    return None
