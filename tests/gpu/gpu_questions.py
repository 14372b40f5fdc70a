"""The questions of `first_minutes.py`. Each function runs in a process of its own, on a GPU.

What frameworks and drivers do there was not seen by anybody; the facts that a question tells are
the answer. So none asserts anything: what is expected stands in its text.
"""

from __future__ import annotations

import questions_of_amounts  # noqa: F401 - each adds its own
import questions_of_moves  # noqa: F401
import questions_of_others  # noqa: F401
from gpu_registry import QUESTIONS, Question

__all__ = ["QUESTIONS", "Question"]
