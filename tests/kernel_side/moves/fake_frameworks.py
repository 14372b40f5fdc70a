"""FAKES of frameworks, as far as the kernel's side looks at them."""

from __future__ import annotations

#: Makes modules without importing any.
MODULE = """
def module(name, **content):
    for number in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:number])
        sys.modules.setdefault(part, types.ModuleType(part))
    vars(sys.modules[name]).update(content)
    return sys.modules[name]
class Thing:
    def __init__(self, **content):
        vars(self).update(content)
"""
