"""States of NumPy's arrays, and of the memory that they share."""

from __future__ import annotations

from table import Group

# fmt: off

FIRST = (
    "import array, mmap, tempfile, numpy as np\n"
    "def put(target, key, value, read):\n"
    "    target[key] = value\n"
    "    return bool(read() == value)\n"
)
arrays = Group("arrays", FIRST)
same, told = arrays.same, arrays.told
same(
    "numbers", "§a = np.arange(5000.); §b = np.array(4, 'i2')", "[§a.sum(), §b, §b.shape, §a.dtype]"
)
same(
    "a large array", "§a = np.arange(3_000_000, dtype='f4').reshape(3, -1)", "[§a.shape, §a[2, 5]]"
)
same("the order of columns", "§a = np.asfortranarray(np.ones((300, 40)))", "§a.flags.f_contiguous")
same("another byte order", "§a = np.arange(4, dtype='>i4')", "[§a, §a.dtype.str]")
same("empty", "§a = np.empty((0, 3)); §b = np.empty((2, 0), 'U3')", "[§a.shape, §b.dtype]")
same("text and bytes", "§a = np.array(['a', 'bcd']), np.array([b'x'])", "§a")
same("times", "§a = np.array(['2024-01-01'], 'M8[D]'), np.timedelta64(3, 's')", "§a")
same("complex and half", "§a = np.array([1 + 2j]), np.ones(3, 'f2'), np.array([True])", "§a")
same(
    "scalars",
    "§a = np.float32(1.5), np.int8(-3), np.str_('a'), np.bool_(1)",
    "[type(x) for x in §a]",
)
same("types of numbers", "§a = np.dtype([('a', 'i4'), ('b', 'O')]), np.dtype('f4'), np.int64", "§a")
same("type with metadata", "§a = np.dtype('i4', metadata={'u': 1})", "dict(§a.metadata)")
same("objects", "§a = np.array([1, 'b', [3]], dtype=object)", "[§a.tolist(), §a[2] is §a[2]]")
same("an object in two arrays", "§o = []; §a = np.array([§o, 1], dtype=object); §b = np.array([1, §o], "
     "dtype=object)", "§a[0] is §b[1] is §o")
same("read only", "§a = np.arange(9000); §a.flags.writeable = False", "§a.flags.writeable")
same("a structured array", "§a = np.zeros(3, [('a', 'i4'), ('b', 'f8', 2)]); §a['a'] = 2", "§a")
same(
    "a structured array with objects", "§a = np.array([(1, [2])], [('n', 'i4'), ('o', 'O')])", "§a"
)
same("a record", "§a = np.array([(1, 2.)], 'i4,f8')[0]", "[§a, type(§a)]")
same("a record array", "§a = np.rec.array([(1, 2.)], names='x,y')", "[§a.x, type(§a)]")
same("a matrix", "§a = np.matrix([[1, 2]])", "[§a * §a.T, type(§a)]")
same("a masked array", "§a = np.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=9)",
     "[§a, §a.mask, §a.fill_value, §a.hardmask]")
same("a masked constant", "§a = np.ma.masked", "§a is np.ma.masked")
same("a masked array of objects", "§a = np.ma.array(np.array([1, [2]], object), mask=[1, 0])", "§a")
same("an array of characters", "§a = np.char.array(['a ', 'b'])", "[§a, type(§a)]")
same("a class of the notebook", "class §A(np.ndarray): pass\n§a = np.arange(4.).view(§A)",
     "[§a, type(§a) is §A]")
same("its attributes", "class §A(np.ndarray): pass\n§a = np.arange(4.).view(§A); §a.unit = 'm'",
     "[§a.unit, §a.sum()]")
same("its attributes that it hands on",
     "class §A(np.ndarray):\n    def __array_finalize__(self, o): self.unit = getattr(o, 'unit', 'm')\n"
     "§a = np.arange(4.).view(§A); §a.unit = 'km'", "[§a.unit, §a[1:].unit]")
same("generators of random numbers", "§r = np.random.default_rng(1); §r.random(3); §s = §r.spawn(1)",
     "[§r.random(), §s[0].random(), §r.spawn(1)[0].random()]")
same("an old generator", "§r = np.random.RandomState(3); §r.rand()", "§r.rand()")
same("functions of NumPy", "§a = np.add, np.mean, np.linalg.norm", "§a[0] is np.add")
same("a function of the notebook", "§f = np.vectorize(lambda x: x + 1)", "§f([1])")
same("a polynomial", "§p = np.poly1d([1, 2]), np.polynomial.Polynomial([1, 2])", "§p[1](3)")
same("an iterator of an array", "§a = np.arange(3)\n§i = iter(§a); next(§i)", "next(§i)")
same("an array in itself", "§a = np.empty(1, object); §a[0] = §a", "§a[0] is §a")
told("a generator in an array", "§a = np.array([(i for i in 'a'), 1], dtype=object)")
told("a generator in a structured array", "§a = np.array([(1, open)], [('n', 'i4'), ('o', 'O')])\n"
     "§a['o'][0] = (i for i in 'a')")
for kind, made in (
    ("an array", "np.array([1, §e], dtype=object)"),
    ("a structured array", "np.array([(1, §e)], [('n', int), ('o', object)])"),
    ("a record with an object", "np.array([(1, §e)], [('n', int), ('o', object)])[0]"),
    ("an array in a record", "np.array([(1, [§e])], [('n', int), ('o', object)])"),
    ("a masked array", "np.ma.array(np.array([1, §e], dtype=object))"),
    ("the mask's fill", "np.ma.array(np.array([1, 2], dtype=object), fill_value=§e)"),
    ("a matrix of objects", "np.array([[1, §e]], dtype=object).view(np.matrix)"),
    ("an array of arrays", "np.array([np.array([1, §e], dtype=object), 0], dtype=object)[:1]"),
    (
        "an inner record",
        "np.array([((§e, 1), 2)], [('a', [('o', object), ('n', int)]), ('b', int)])",
    ),
    ("a part of a field", "np.array([([§e, 1],)], [('o', object, 2)])"),
):
    arrays.proven(
        f"what does not load, in {kind}",
        "class §E(Exception):\n    def __init__(self, a, b): super().__init__(a)\n"
        f"§e = §E(1, 2)\n§a = {made}; del §e",
    )

shared = Group("shared memory", FIRST)
same, told = shared.same, shared.told
same("a view", "§a = np.zeros(9); §b = §a[2:5]", "put(§b, 0, 7, lambda: §a[2])")
same("a large view", "§a = np.zeros(90_000); §b = §a[2:]", "put(§b, 0, 7, lambda: §a[2])")
same("a transposed one", "§a = np.zeros((2, 3)); §b = §a.T", "put(§a, (0, 1), 7, lambda: §b[1, 0])")
same("a reversed one", "§a = np.zeros(3); §b = §a[::-1]", "put(§b, 0, 7, lambda: §a[2])")
same(
    "the real part", "§a = np.zeros(3, complex); §b = §a.real", "put(§b, 1, 7, lambda: §a[1].real)"
)
same(
    "another type",
    "§a = np.zeros(3); §b = §a.view('u1')",
    "put(§a, 0, 7., lambda: §b.view('f8')[0])",
)
same("two views of what is gone", "_b = np.zeros(50); §a = _b[:10]; §b = _b[5:15]; del _b",
     "put(§a, 6, 7, lambda: §b[1])")
same("a view in a list", "§a = np.zeros(5); §b = {'v': [§a[1:]]}",
     "put(§b['v'][0], 0, 7, lambda: §a[1])")
same("a view, and its array in a list", "_b = np.zeros(5); §a = _b[1:]; §b = [_b]; del _b",
     "put(§a, 0, 7, lambda: §b[0][1])")
same("a view of an array that a function holds",
     "def §f(b): return lambda: b\n_b = np.zeros(5); §a = _b[1:]; §b = §f(_b); del _b",
     "put(§a, 0, 7, lambda: §b()[1])")
same("a field", "§a = np.zeros(3, 'i4,f8'); §b = §a['f0']", "put(§b, 0, 7, lambda: §a['f0'][0])")
same(
    "parts of a split", "§a = np.zeros(6); §b = np.split(§a, 2)", "put(§b[1], 0, 7, lambda: §a[3])"
)
same("a broadcast", "§a = np.zeros(3); §b = np.broadcast_to(§a, (100, 3))",
     "put(§a, 0, 7, lambda: §b[5, 0])")
same("sliding windows", "§a = np.zeros(9); §b = np.lib.stride_tricks.sliding_window_view(§a, 3)",
     "put(§a, 2, 7, lambda: §b[0, 2])")
same("sliding windows of what is gone", "_b = np.arange(100_000.)\n"
     "§b = np.lib.stride_tricks.sliding_window_view(_b, 5000); del _b",
     "[§b.shape, §b[3, 4], §b.strides]")
same("a view of objects", "§a = np.array([1, 2, 3], object); §b = §a[1:]",
     "put(§b, 0, 7, lambda: §a[1])")
same("a reversed view of objects", "§a = np.array([[1, 2], [3, 4]], object); §b = §a.T[::-1]",
     "put(§b, (0, 0), 7, lambda: §a[0, 1])")
same("two views of objects that are gone", "_b = np.array([1, 2, 3], object)\n"
     "§a = _b[:2]; §b = _b[1:]; del _b", "put(§b, 0, 7, lambda: §a[1])")
same("a field beside objects", "§a = np.zeros(3, [('a', 'i8'), ('o', 'O')]); §b = §a['a']",
     "put(§b, 0, 7, lambda: §a[0]['a'])")
same("a field of objects", "§a = np.zeros(3, [('a', 'i8'), ('o', 'O')]); §b = §a['o']",
     "put(§b, 0, 7, lambda: §a[0]['o'])")
same("a masked array and its data", "§a = np.zeros(5); §b = np.ma.array(§a, copy=False)",
     "put(§a, 0, 7, lambda: §b.data[0])")
same("a view of a masked array", "§a = np.ma.zeros(5); §b = §a[1:]", "put(§b, 0, 7, lambda: §a[1])")
same("a masked array and its mask", "§m = np.zeros(5, bool); §b = np.ma.array(np.ones(5), mask=§m, "
     "copy=False)", "put(§m, 1, True, lambda: §b.mask[1])")
same("a record array over another", "§a = np.zeros(3, 'i4,f8'); §b = §a.view(np.recarray)",
     "put(§a['f0'], 0, 7, lambda: §b.f0[0])")
same("a matrix over an array", "§a = np.zeros((2, 2)); §b = §a.view(np.matrix)",
     "put(§a, (0, 1), 7, lambda: §b[0, 1])")
same("a class of the notebook", "class §A(np.ndarray): pass\n§a = np.zeros(4).view(§A); §b = §a[1:]",
     "put(§b, 0, 7, lambda: §a[1])")
same("a class of the notebook over an array", "class §A(np.ndarray): pass\n§a = np.zeros(4)\n"
     "§b = §a.view(§A)", "put(§b, 0, 7, lambda: §a[0])")
same("over a bytearray", "§a = bytearray(8); §b = np.frombuffer(§a, 'u1')",
     "put(§b, 3, 7, lambda: §a[3])")
same("over a part of a bytearray", "§a = bytearray(9); §b = np.frombuffer(§a, 'u2', 3, offset=3)",
     "put(§b, 0, 7, lambda: §a[3])")
same("over bytes", "§a = bytes(8); §b = np.frombuffer(§a, 'u1')", "[§b, §b.flags.writeable]")
same("over an array of Python", "§a = array.array('d', [0, 0]); §b = np.asarray(§a)",
     "put(§b, 1, 7, lambda: §a[1])")
same(
    "a memoryview over an array",
    "§a = np.zeros(4); §b = memoryview(§a)",
    "put(§a, 0, 7, lambda: §b[0])",
)
told("mapped from a file", "§a = np.memmap(tempfile.mktemp(), shape=3, mode='w+')")
told(
    "an array over what is mapped",
    "§b = np.asarray(np.memmap(tempfile.mktemp(), shape=3, mode='w+'))",
)
told(
    "a part of what is mapped",
    "§b = np.asarray(np.memmap(tempfile.mktemp(), shape=3, mode='w+'))[1:]",
)
told("a masked array over what is mapped",
     "§b = np.ma.array(np.memmap(tempfile.mktemp(), shape=3, mode='w+'), copy=False)")
told("over a memory map", "§m = mmap.mmap(-1, 10); §b = np.frombuffer(§m, 'u1')", name="§b")
told("over a block of shared memory", "from multiprocessing import shared_memory as s\n"
     "np._kept = s.SharedMemory(create=True, size=80); np._kept.unlink()\n"
     "§b = np.ndarray(10, buffer=np._kept.buf)")
told("over memory of C", "import ctypes\n§c = (ctypes.c_double * 3)()\n§b = np.ctypeslib.as_array(§c)",
     name="§b")

GROUPS = [arrays, shared]
