"""States of plain Python: values, containers, what they share, functions, exceptions, modules."""

from __future__ import annotations

from table import Group

# fmt: off

values = Group(
    "values",
    "import array, collections, datetime, decimal, fractions, io, ipaddress, itertools, operator\n"
    "import pathlib, random, re, string, struct, types, uuid, zoneinfo",
)
values.same("numbers", "§a = [1, 2**80, -0.0, 1e308, 3+4j, True]", "§a")
values.same("not a number", "§a = float('nan')", "§a != §a")
values.same("text with surrogates", "§a = 'ä\\udc80\\x00'", "§a")
values.same("bytes", "§a = bytes(range(256)) * 300", "§a")
values.same("bytearray and a view of it", "§a = bytearray(b'ab'); §b = memoryview(§a)",
            "[§b.__setitem__(0, 120), §a]")
values.told("a part of a memoryview", "§b = memoryview(bytearray(9))[2:4]", "len(§b)")
values.same("none, ellipsis, not implemented", "§a = [None, ..., NotImplemented]", "§a")
values.same("types of those", "§a = [type(None), type(...), type(NotImplemented)]", "§a")
values.same("decimal and fraction", "§a = decimal.Decimal('1.10'), fractions.Fraction(1, 3)", "§a")
values.same("a decimal context", "§a = decimal.Context(prec=3)", "§a.divide(1, 3)")
values.same("dates", "§a = datetime.datetime(2024, 1, 1, fold=1), datetime.timedelta(3, 4)", "§a")
values.same("a time zone", "§a = datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('UTC'))",
            "§a.isoformat()")
values.same("paths", "§a = pathlib.Path('a') / 'b', pathlib.PurePosixPath('/c')", "§a")
values.same("a regular expression", "§a = re.compile('(a)(b)', re.I)", "§a.match('AB').groups()")
values.told("a match", "§a = re.match('a', 'ab')", "§a.group()")
values.same("an identifier", "§a = uuid.UUID(int=7)", "§a")
values.same("addresses", "§a = ipaddress.ip_network('10.0.0.0/8')", "§a.num_addresses")
values.same("an array of Python", "§a = array.array('d', [1, 2])", "§a")
values.same("a deque with a limit", "§a = collections.deque([1, 2], 2)", "[§a.append(3), §a]")
values.same("a counter", "§a = collections.Counter('hello')", "§a.most_common(1)")
values.same("a default dict", "§a = collections.defaultdict(list); §a[1].append(2)", "[§a[3], §a]")
values.same("a default dict of a lambda", "§a = collections.defaultdict(lambda: 7)", "§a[1]")
values.same("an ordered dict", "§a = collections.OrderedDict(b=1, a=2); §a.move_to_end('b')", "§a")
values.same("a chain map", "§b = {1: 2}; §a = collections.ChainMap({}, §b)", "§a.maps[1] is §b")
values.same("user containers", "§a = collections.UserDict(a=1), collections.UserList([1])", "§a")
values.same("a simple namespace", "§a = types.SimpleNamespace(x=[1])", "§a")
values.same("a read-only mapping", "§b = {1: 2}; §a = types.MappingProxyType(§b)", "dict(§a)")
values.same("a slice and a range", "§a = slice(1, 2), range(3, 9, 2)", "§a")
values.same("frozen sets", "§a = frozenset([1, (2, 3)]), {frozenset()}", "§a")
values.same("text in memory", "§a = io.StringIO(); §a.write('abc'); §a.seek(1)", "§a.read()")
values.same("bytes in memory", "§a = io.BytesIO(b'abc'); §a.read(1)", "[§a.tell(), §a.getvalue()]")
values.same("a generator of random numbers", "§a = random.Random(4); §a.random()", "§a.random()")
values.told("a system's generator", "§a = random.SystemRandom()", "0 <= §a.random() < 1")
values.told("a struct", "§a = struct.Struct('<ih')", "§a.pack(1, 2)")
values.same("a template", "§a = string.Template('$x')", "§a.substitute(x=1)")
values.same("getters", "§a = operator.itemgetter(1), operator.attrgetter('real')", "§a[0]([1, 2])")
values.same("an iterator of a list", "§a = iter([1, 2, 3]); next(§a)", "list(§a)")
values.same("an iterator of a dict", "§a = iter({1: 2, 3: 4}); next(§a)", "list(§a)")
values.same("an iterator of a range", "§a = iter(range(9)); next(§a)", "next(§a)")
values.same("a count", "§a = itertools.count(5); next(§a)", "next(§a)")
values.same("a cycle", "§a = itertools.cycle('abc'); next(§a)", "[next(§a) for _ in range(4)]")
values.same("a tee", "§a, §b = itertools.tee(iter([1, 2])); next(§a)", "[list(§a), list(§b)]")
values.same("zip, map and enumerate", "§a = zip([1, 2], [3, 4]), map(len, ['a']), enumerate('ab')",
            "list(map(list, §a))")
values.same("a permutation in the middle", "§a = itertools.permutations([1, 2]); next(§a)",
            "list(§a)")
values.told("a generator", "§a = (i for i in range(3)); next(§a)", "next(§a)")
values.told("a generator in an iterator", "§a = map(len, (i for i in [[1]]))", "next(§a)")
values.same("views of a dict", "§b = {1: 2}; §a = [§b.keys(), §b.items()]", "list(map(list, §a))")
values.same("an object as a mark", "§a = object(); §b = [§a]", "§b[0] is §a")
values.same("a large list", "§a = list(range(200_000))", "sum(§a)")
values.same("an alias of a type", "§a = list[int], dict[str, int] | None", "§a")
values.same("code", "§a = compile('1 + 1', 'x', 'eval')", "eval(§a)")

sharing = Group("sharing", "import copy, functools, types, weakref")
sharing.same("two names for one list", "§a = []; §b = §a", "§a is §b")
sharing.same("a list in a dict", "§a = []; §b = {'x': §a}", "§b['x'] is §a")
sharing.same("one text twice", "§a = 'x' * 100; §b = [§a]", "§b[0] is §a")
sharing.same("a list in itself", "§a = []; §a.append(§a)", "§a[0] is §a")
sharing.same("a tuple in a cycle", "§a = ([],); §a[0].append(§a)", "§a[0][0] is §a")
sharing.same("a dict in itself", "§a = {}; §a['x'] = §a", "§a['x'] is §a")
sharing.same("instances in a cycle",
             "class §C: pass\n§a = §C(); §a.b = §C(); §a.b.a = §a", "§a.b.a is §a")
sharing.same("an instance that holds its class", "class §C: pass\n§a = §C(); §a.c = §C",
             "[§a.c is §C, type(§a) is §C]")
sharing.same("a default that is a variable", "§m = object()\ndef §f(x=§m): return x is §m", "§f()")
sharing.same("a function with a cache of its own",
             "def §f(x, seen=[]):\n    seen.append(x); return len(seen)\n§f(1)", "§f(2)")
sharing.same("a bound method and its object", "§a = [3]; §b = §a.append", "[§b(1), §a]")
sharing.same("a bound method of a class of the notebook",
             "class §C:\n    def go(self): return self\n§a = §C(); §b = §a.go", "§b() is §a")
sharing.same("a partial", "§a = []; §b = functools.partial(§a.append, 1)", "[§b(), §a]")
sharing.told("a weak reference", "class §C: pass\n§a = §C(); §r = weakref.ref(§a)", "§r() is §a")
sharing.told("a set of weak references",
             "class §C: pass\n§a = §C(); §w = weakref.WeakValueDictionary(a=§a)", "len(§w)")
sharing.same("a weak set", "class §C: pass\n§a = §C(); §w = weakref.WeakSet([§a])", "§a in §w")
sharing.same("the namespace", "§g = globals()", "§g is globals()")
sharing.proven("a set in a cycle with hashes",
             "class §C:\n    def __init__(self, n): self.n = n; self.peers = set()\n"
             "    def __hash__(self): return hash(self.n)\n"
             "    def __eq__(self, other): return self.n == other.n\n"
             "§a = §C('x'); §b = §C('y'); §a.peers.add(§b); §b.peers.add(§a)",
             "[§b in §a.peers, §a in §b.peers]")

functions = Group("functions", "import contextlib, functools, operator, typing")
functions.same("a function that uses variables", "§n = 4\ndef §f(): return §n", "§f()")
functions.same("a function that sets one",
               "§n = 0\ndef §f():\n    global §n\n    §n += 1\n§f()", "[§f(), §n][1]")
functions.same("a lambda in a dict", "§d = {'f': lambda x: x + 1}", "§d['f'](1)")
functions.same("a closure", "def §m(n): return lambda: n\n§f = §m(3)", "§f()")
functions.same("two closures with one variable",
               "def §m():\n    n = 0\n    def add():\n        nonlocal n\n        n += 1\n"
               "        return n\n    def get(): return n\n    return add, get\n"
               "§add, §get = §m(); §add()", "[§add(), §add(), §get()]")
functions.same("two closures in two containers",
               "def §m():\n    n = []\n    return {'a': lambda: n}, [lambda: n]\n§a, §b = §m()",
               "§a['a']() is §b[0]()")
functions.same("closures over the variable of a loop",
               "§f = [lambda: i for i in range(3)]", "[f() for f in §f]")
functions.same("closures of a loop share it",
               "def §m():\n    got = []\n    for i in range(2):\n        def put(v):\n"
               "            nonlocal i\n            i = v\n        got += [put, lambda: i]\n"
               "    return got\n§f = §m()", "[§f[0](9), §f[3]()]")
functions.same("a closure that calls itself",
               "def §m():\n    def fac(n): return n * fac(n - 1) if n else 1\n    return fac\n"
               "§f = §m()", "§f(5)")
functions.same("two closures that call each other",
               "def §m():\n    def even(n): return n == 0 or odd(n - 1)\n"
               "    def odd(n): return n != 0 and even(n - 1)\n    return even, odd\n"
               "§e, §o = §m()", "[§e(10), §o(10)]")
functions.same("a closure with an empty cell",
               "def §m():\n    def f(): return late\n    if 0: late = 1\n    return f\n§f = §m()",
               "§f.__closure__[0] == (lambda: x).__closure__ if 0 else §f.__code__.co_freevars")
functions.same("a cell that holds its own function",
               "def §m():\n    me = []\n    def f(): return me\n    me.append(f)\n    return f\n"
               "§f = §m()", "§f()[0] is §f")
functions.told("a closure over a generator",
               "def §m():\n    g = (i for i in 'ab')\n    return lambda: next(g)\n§f = §m()",
               "§f()")
functions.same("annotations and defaults",
               "def §f(a: int, *, b: str = 'x') -> None: 'doc'",
               "[§f.__annotations__, §f.__kwdefaults__, §f.__doc__]")
functions.same("attributes of a function", "def §f(): pass\n§f.tag = []; §f.me = §f",
               "[§f.tag, §f.me is §f]")
functions.same("a decorated function",
               "def §w(f):\n    @functools.wraps(f)\n    def inner(*a): return f(*a) + 1\n"
               "    return inner\n@§w\ndef §f(x): return x",
               "[§f(1), §f.__name__, §f.__wrapped__(1)]")
functions.unseen("what a cached function remembers",
                 "@functools.lru_cache\ndef §f(x): return x\n§f(1)",
                 "§f.cache_info().currsize", "caches of functions with `lru_cache`")
functions.same("a cached function works", "@functools.lru_cache(3)\ndef §f(x): return x * 2",
               "[§f(2), §f.cache_parameters()]")
functions.same("a function for each type",
               "@functools.singledispatch\ndef §f(x): return 'any'\n"
               "@§f.register\ndef _(x: int): return 'int'\n"
               "@§f.register(list)\ndef _(x): return 'list'\n§f(1)",
               "[§f(1), §f([]), §f('')]")
functions.same("more types can be added",
               "@functools.singledispatch\ndef §f(x): return 'any'\n§g = §f",
               "[§f.register(str, lambda x: 'text') and None, §f(''), §g('')]")
functions.same("a context manager's function",
               "@contextlib.contextmanager\ndef §f(): yield 5", "§f().__enter__()")
functions.told("an open context", "@contextlib.contextmanager\ndef §f(): yield 5\n§c = §f()")
functions.same("a coroutine's function", "async def §f(): return 1", "§f.__code__.co_flags")
functions.same("a generator's function", "def §f():\n    yield 1\n    yield 2", "list(§f())")
functions.same("composed partials", "§f = functools.partial(functools.partial(int, base=2))",
               "§f('101')")
functions.same("functions of C", "§f = [len, max, operator.add, ''.join, dict.fromkeys]",
               "[§f[0]('ab'), §f[3](['a']), §f[4]('a')]")
functions.same("functions with globals of their own",
               "§n = {}\nexec('n = 0\\ndef inc():\\n    global n\\n    n += 1\\n    return n\\n"
               "def get(): return n', §n)\n§i, §g = §n['inc'], §n['get']; §i()",
               "[§i() - §g()]")
functions.same("their globals are the dict that is kept",
               "§n = {}\nexec('n = 0\\ndef inc():\\n    global n\\n    n += 1\\n    return n', §n)\n"
               "§i = §n['inc']; §i()", "[n[0] for n in [(§i(), §n['n'])]] == [§n['n']]")

exceptions = Group("exceptions", "import traceback")
exceptions.same("an exception", "§e = ValueError('x', 1)", "[type(§e), §e.args]")
exceptions.same("one that was caught",
                "try: 1 / 0\nexcept Exception as e: §e = e",
                "[repr(§e), [tuple(f)[:3] for f in traceback.extract_tb(§e.__traceback__)]]")
exceptions.same("one that was caught, in a list",
                "§l = []\nfor §i in range(2):\n    try: int('x')\n"
                "    except ValueError as e: §l.append((§i, e))",
                "[''.join(traceback.format_exception(e)).count('line') for _, e in §l]")
exceptions.unseen("variables of its frames", "def §f(secret): return 1 / 0\n"
                  "try: §f(5)\nexcept Exception as e: §e = e",
                  "§e.__traceback__.tb_next.tb_frame.f_locals.get('secret')",
                  "the variables of the frames of an exception's traceback")
exceptions.same("its text", "try: 1 / 0\nexcept Exception as e: §t = traceback.format_exc()", "§t")
exceptions.same("one without its traceback",
                "try: 1 / 0\nexcept Exception as e: §e = e.with_traceback(None)", "repr(§e)")
exceptions.same("a cause and notes",
                "§e = ValueError(1); §e.__cause__ = KeyError(2); §e.add_note('n')",
                "[repr(§e.__cause__), §e.__suppress_context__, §e.__notes__]")
exceptions.same("a context", "§e = ValueError(1); §e.__context__ = KeyError(2)",
                "repr(§e.__context__)")
exceptions.same("a class of its own", "class §E(Exception): pass\n§e = §E(1)", "§e.args")
exceptions.same("attributes of one", "§e = OSError(2, 'no', 'file'); §e.tag = [1]",
                "[§e.filename, §e.errno, §e.tag, type(§e)]")
exceptions.proven("a class with another constructor",
                  "class §E(Exception):\n    def __init__(self, code, text):\n"
                  "        super().__init__(f'{code}: {text}'); self.code = code\n"
                  "§e = §E(4, 'x'); §l = [1, §e]", "§l[1].code")
exceptions.same("a group", "§e = ExceptionGroup('g', [ValueError(1)])", "§e.exceptions")
exceptions.same("a summary of a traceback",
                "try: 1 / 0\nexcept Exception as e: §t = traceback.TracebackException.from_exception(e)",
                "''.join(§t.format())")

modules = Group(
    "modules",
    "import sys, types, os.path, json, xml.etree.ElementTree as ET",
    {
        "mine_a.py": "STATE = {'n': 0}\nclass Model:\n    n = 0\n    def __init__(self): self.w = 1\n"
        "def f(): return STATE\n",
        "mine_b.py": "x = [1]\n",
        "mine_g.py": "items = []\ndef both(): return list(items)\n",
        "mine_h.py": "class Config:\n    def __init__(self): self.rate = 1\nconfig = Config()\n",
        "mine_i.py": "import threading\nlock = threading.Lock()\n",
        "mine_c.py": "x = 1\n",
        "mine_d.py": "class C: n = 0\n",
        "mine_e.py": "def f(): return 1\n",
        "mine_f.py": "import json\nCACHE = None\ndef fill():\n    global CACHE\n    CACHE = 5\n",
    },
)
modules.same("a module", "§m = json", "§m is __import__('json')")
modules.same("a module of a package", "§m = ET", "§m.Element('a').tag")
modules.same("one of the folder", "import mine_a as §m", "§m.f()")
modules.same("an instance of its class", "import mine_a\n§i = mine_a.Model()",
             "[§i.w, type(§i) is mine_a.Model]")
modules.same("its function and its dict", "import mine_a\n§f = mine_a.f",
             "§f() is __import__('mine_a').STATE")
modules.same("a list of it that has grown", "import mine_b as §m; §m.x.append(2)", "§m.x")
modules.same("a name of it that was set", "import mine_c; mine_c.x = 5",
             "__import__('mine_c').x")
modules.same("an attribute of its class", "import mine_d; mine_d.C.n = 3",
             "__import__('mine_d').C.n")
modules.same("its function replaced", "import mine_e; mine_e.f = lambda: 2",
             "__import__('mine_e').f()")
modules.same("a name that its own function has set", "import mine_f; mine_f.fill()",
             "__import__('mine_f').CACHE")
modules.unseen("a function of a library replaced", "json.§f = 1", "hasattr(json, '§f')",
               "state inside of modules")
modules.same("one that was made by hand",
             "§m = types.ModuleType('§m'); §m.x = 5; exec('def f(): return x', vars(§m))",
             "[§m.x, §m.f()]")
modules.same("a list of it that a variable is", "import mine_g; §l = mine_g.items; §l.append(5)",
             "[§l is __import__('mine_g').items, __import__('mine_g').both()]")
modules.same("an object of it with state", "import mine_h; §c = mine_h.config; §c.rate = 3",
             "[__import__('mine_h').config.rate, §c is __import__('mine_h').config]")
modules.unseen("a lock of its own", "import mine_i; mine_i.lock.acquire()", "__import__('mine_i').lock.locked()",
               "what a module of the notebook's own holds that cannot be saved")
modules.told("one that was put among all",
             "§m = types.ModuleType('§m'); sys.modules['§m'] = §m", "§m.__name__")

GROUPS = [values, sharing, functions, exceptions, modules]
