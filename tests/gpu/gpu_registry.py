"""What a question of the first minutes on a GPU is, and the list of all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_asked import (
    MIB,
    step,
)


@dataclass(frozen=True)
class Question:
    """What is asked, and how.

    Attributes
    ----------
    seconds: after which its process is killed.
    alone: "before" or "after" the others, since it measures the whole GPU; empty: beside others.
    risky: NVIDIA says that it is not supported.
    last: it ends processes that came back, which may take the machine down.
    """

    name: str
    asks: str
    ask: Callable[[], None]
    seconds: float = 90.0
    alone: str = ""
    risky: bool = False
    last: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


QUESTIONS: dict[str, Question] = {}


def question(asks: str, **how: Any) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def note(ask: Callable[[], None]) -> Callable[[], None]:
        QUESTIONS[ask.__name__] = Question(ask.__name__, asks, ask, **how)
        return ask

    return note


def torch_of() -> Any:
    step("import torch")
    torch = importlib.import_module("torch")
    step("first use of the GPU")
    return torch


def first_line(*paths: str) -> str | None:
    for path in paths:
        with suppress(OSError):
            return Path(path).read_text().strip()
    return None


def numbers_of(torch: Any, mib: int) -> tuple[Any, Any]:
    """So many MiB of the GPU, and their sum."""
    made = torch.arange(mib * MIB // 4, device="cuda", dtype=torch.int32)
    torch.cuda.synchronize()
    return made, made.sum().item()
