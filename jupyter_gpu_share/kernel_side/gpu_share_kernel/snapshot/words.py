"""What the user is told of a snapshot."""

from gpu_share_kernel.snapshot import devices

__all__ = ["Refused", "amount", "line", "listed", "named", "strerror"]

_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
#: What a user is told of at most, one by one, and how much of why: the whole list is elsewhere.
_NAMED, _WHY = 5, 80


class Refused(Exception):  # noqa: N818 - a decision, told to the user
    """Nothing was saved, or nothing restored; the text is a sentence."""


def named(group, name):
    """What the user calls an entry."""
    return "Out[%s]" % name if group == "output" else name


def line(restored, size, lost, failed):
    """One line for the user about what came back."""
    one = restored == 1
    told = "%d variable%s back (%s)" % (restored, " is" if one else "s are", amount(size))
    if lost:
        told += "; not kept: " + listed([(row["what"], row["name"]) for row in lost], "%s `%s`")
    if failed:
        rows = [(row["name"], _start_of(row["why"])) for row in failed]
        told += "; not restored: " + listed(rows, "`%s` (%s)")
    return "; ".join([told, *devices.notes()]) + "."


def listed(rows, form):
    told = [form % row for row in rows[:_NAMED]]
    if len(rows) > _NAMED:
        told.append("%d more" % (len(rows) - _NAMED))
    return ", ".join(told)


def _start_of(text):
    return text if len(text) <= _WHY else text[: _WHY - 1] + "…"


def amount(size):
    for unit, name in _UNITS:
        if size >= unit:
            return "%.3g %s" % (size / unit, name)
    return "%d B" % size


def strerror(error):
    return error.strerror or str(error) or type(error).__name__
