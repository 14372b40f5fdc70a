"""A FAKE of PyTorch, of a few lines: on the FAKE driver, with what caps and contexts ask of it."""

from torch import cuda  # noqa: F401
