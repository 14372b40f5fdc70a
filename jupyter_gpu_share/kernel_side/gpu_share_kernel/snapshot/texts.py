"""Arrays of texts, as columns of data frames are: written as a few long ones.

Pickle looks at each text by itself, and remembers it, in case that it comes once more. Where nobody
but the array has its texts, none does.
"""

import importlib
import sys

__all__ = ["Texts", "is_long", "told", "whole"]

#: With fewer numpy's own way costs little; so many are written at once.
_MANY = 2**14
#: Between two texts.
_END = "\0"


class Texts:
    """A part of an array, which is made something to pickle when its turn comes.

    Parameters
    ----------
    array: of objects, of any shape.
    start: of the part, in the order of the elements.
    """

    def __init__(self, array, start):
        self._array, self._start = array, start

    def reduced(self, buffer):
        """As ``__reduce__`` gives it.

        Parameters
        ----------
        buffer: a function of a number of bytes and a function that makes them, which gives what is
            to be pickled for them.
        """
        data = part = _part(self._array, self._start)
        if _is_text(part) and max(map(sys.getrefcount, part)) <= _held_once():
            nbytes = sum(map(len, part)) + len(part)  # about: letters may take more
            data = buffer(nbytes, lambda: _joined(part))
        return _put_texts, (self._array, self._start, data)


def is_long(obj):
    """Whether an array is one that may be written so."""
    return (
        obj.dtype.char == "O"
        and obj.size >= _MANY
        and type(obj.flat[0]) is type(obj.flat[obj.size - 1]) is str
    )


def whole(obj):
    """How an array is reduced, so that its texts are made one part after the other."""
    parts = tuple(Texts(obj, start) for start in range(0, obj.size, _MANY))
    fortran = obj.flags.f_contiguous and not obj.flags.c_contiguous
    return _text_array, (obj.shape, "F" if fortran else "C"), parts, None, None, _text_setstate


def told(obj, content):
    """Have ``content`` look at the texts of an array; the parts that have something else."""
    others = []
    for start in range(0, obj.size, _MANY):
        part = _part(obj, start)
        if _is_text(part):
            content(_joined(part))
        else:
            others.append((start, part))
    return others


def _part(array, start):
    return array.flat[start : start + _MANY].tolist()


def _is_text(part):
    # Were the end in a text, there would be more texts afterwards.
    return set(map(type, part)) == {str} and not any(_END in text for text in part)


def _joined(part):
    return _END.join(part).encode("utf-8", "surrogatepass")


def _held_once():
    """What Python counts as references to a text that only an array has."""
    numpy = sys.modules["numpy"]
    array = numpy.empty(1, dtype=object)
    array[0] = "%d texts" % _MANY
    return max(map(sys.getrefcount, array.flat[0:1].tolist()))


# -- called when a snapshot is loaded ----------------------------------------------------------


def _text_array(shape, order):
    numpy = importlib.import_module("numpy")
    return numpy.empty(shape, dtype=object, order=order)


def _put_texts(array, start, data):
    row = array.reshape(-1) if array.flags.c_contiguous else array.flat
    if isinstance(data, list):
        for number, each in enumerate(data, start):  # numpy would look into lists among them
            row[number] = each
        return
    texts = str(data, "utf-8", "surrogatepass").split(_END)
    row[start : start + len(texts)] = texts
    # The unpickler's memory would keep it.
    memory = data
    if isinstance(data, memoryview):
        memory = data.obj
        data.release()
    if isinstance(memory, bytearray):
        memory.clear()


def _text_setstate(array, state):
    pass  # its parts have put themselves in
