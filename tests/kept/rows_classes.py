"""States of classes of the notebook, and of their instances."""

from __future__ import annotations

from table import Group

# fmt: off

classes = Group(
    "classes",
    "import abc, collections, copyreg, ctypes, dataclasses, enum, functools, threading, typing\n"
    "from dataclasses import dataclass, field, fields",
)
same, told = classes.same, classes.told
same("a class", "class §C:\n    x = 1\n    def f(self): return self.x", "§C().f()")
same(
    "a class with a document", "class §C:\n    'd'", "[§C.__doc__, §C.__module__, §C.__qualname__]"
)
same("super and __class__",
     "class §A:\n    def f(self): return [1]\nclass §B(§A):\n"
     "    def f(self): return super().f() + [__class__.__name__]\n§b = §B()", "§b.f()")
same("methods of the class", "class §C:\n    @classmethod\n    def c(cls): return cls\n"
     "    @staticmethod\n    def s(): return 2", "[§C.c() is §C, §C.s()]")
same("slots", "class §C:\n    __slots__ = ('a', '__weakref__')\n§c = §C(); §c.a = 1",
     "[§c.a, hasattr(§c, '__dict__')]")
same("slots and a dict", "class §A:\n    __slots__ = 'a',\nclass §B(§A): pass\n"
     "§b = §B(); §b.a = 1; §b.c = 2", "[§b.a, §b.c, vars(§b)]")
same("slots with private names", "class §C:\n    __slots__ = '__x', 'y'\n    def __init__(s): s.__x = 1"
     "\n    def x(s): return s.__x\n§c = §C()", "[§c.x(), hasattr(§c, 'y')]")
same("a property", "class §C:\n    @property\n    def p(self): return 1\n    @p.setter\n"
     "    def p(self, v): self.v = v\n§c = §C(); §c.p = 3", "[§c.p, §c.v]")
same("a descriptor that knows its name",
     "class §D:\n    def __set_name__(self, o, n): self.n = n\n"
     "    def __get__(self, o, t=None): return self.n\nclass §C:\n    x = §D()",
     "§C().x")
same("a descriptor is told once",
     "§told = []\nclass §D:\n    def __set_name__(self, o, n): §told.append(n)\n"
     "class §C:\n    x = §D()", "§told")
same("an inner class", "class §C:\n    class In:\n        x = 1\n§i = §C.In()",
     "[§i.x, type(§i) is §C.In]")
same("a class of a function", "def §m():\n    class L:\n        def f(self): return L\n    return L\n"
     "§C = §m(); §i = §C()", "[§i.f() is §C, type(§i) is §C]")
same("an instance whose class is gone", "class §C:\n    x = 3\n§i = §C(); del §C", "§i.x")
same("a class that was replaced",
     "class §C:\n    def f(self): return 1\n§a = §C()\nclass §C:\n    def f(self): return 2\n"
     "§b = §C()", "[§a.f(), §b.f(), type(§a) is type(§b)]")
same("attributes of the class that were set", "class §C: n = 0\n§C.n = 5; §C.f = lambda self: 6",
     "[§C.n, §C().f()]")
same("a registry of subclasses in the class",
     "class §P:\n    all = []\n    def __init_subclass__(cls, **kw):\n"
     "        super().__init_subclass__(**kw); §P.all.append(cls)\n"
     "class §A(§P): pass\nclass §B(§P): pass", "[§P.all == [§A, §B]]")
same("a registry in a variable",
     "§all = {}\nclass §P:\n    def __init_subclass__(cls, kind, **kw):\n"
     "        assert kind not in §all; §all[kind] = cls\n"
     "class §A(§P, kind='a'): pass\nclass §B(§P, kind='b'): pass",
     "[list(§all), §all['a'] is §A]")
same("a subclass after the wake is registered",
     "class §P:\n    n = 0\n    def __init_subclass__(cls): §P.n += 1\nclass §A(§P): pass",
     "[type('X', (§P,), {}) and None, §P.n]")
same("__init_subclass__ that writes into its class",
     "class §P:\n    def __init_subclass__(cls, size=1): cls.size = size\nclass §A(§P, size=4): pass",
     "§A.size")
same("a metaclass", "class §M(type):\n    def f(cls): return cls.__name__[-1]\n"
     "class §C(metaclass=§M): pass", "[§C.f(), type(§C) is §M]")
same("a metaclass that counts",
     "class §M(type):\n    n = 0\n    def __init__(cls, *a, **k):\n"
     "        super().__init__(*a, **k); §M.n += 1\n"
     "class §A(metaclass=§M): pass\nclass §B(§A): pass", "§M.n")
same("a metaclass that keeps all by name",
     "class §M(type):\n    all = {}\n    def __new__(m, name, bases, space):\n"
     "        c = super().__new__(m, name, bases, space)\n"
     "        m.all.setdefault(name, []).append(c); return c\n"
     "class §A(metaclass=§M): pass\nclass §B(§A): pass",
     "[{k: len(v) for k, v in §M.all.items()}, §M.all['§A'][0] is §A]")
same("a metaclass with an argument",
     "class §M(type):\n    def __new__(m, n, b, s, tag): return super().__new__(m, n, b, s)\n"
     "    def __init__(c, n, b, s, tag): super().__init__(n, b, s); c.tag = tag\n"
     "class §A(metaclass=§M, tag=3): pass", "§A.tag")
same("a metaclass that forbids subclasses",
     "class §M(type):\n    def __new__(m, n, b, s):\n        if b: raise TypeError('final')\n"
     "        return super().__new__(m, n, b, s)\nclass §A(metaclass=§M): pass",
     "type(§A) is §M")
same("a singleton", "class §M(type):\n    def __call__(cls):\n        if not hasattr(cls, 'one'): "
     "cls.one = super().__call__()\n        return cls.one\nclass §C(metaclass=§M): pass\n§c = §C()",
     "§C() is §c")
same("a singleton by __new__", "class §C:\n    one = None\n    def __new__(cls):\n"
     "        cls.one = cls.one or super().__new__(cls); return cls.one\n§c = §C(); §c.x = 1",
     "[§C() is §c, §c.x]")
same("an abstract class", "class §A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
     "class §B(§A):\n    def f(self): return 1\n§A.register(int)",
     "[isinstance(3, §A), §B().f(), §A.__abstractmethods__]")
same("an enumeration", "class §E(enum.Enum):\n    A = 1\n    B = 2\n    X = A\n    def f(self): return 3"
     "\n§e = §E.X", "[§e is §E.A, §e.f(), list(§E), §E(2) is §E.B, §E['X'] is §e]")
same("an enumeration with values of its own",
     "class §E(enum.Enum):\n    def __init__(self, v): self.twice = v * 2\n    A = 4", "§E.A.twice")
same("flags", "class §F(enum.Flag):\n    R = 1\n    W = 2\n§f = §F.R | §F.W",
     "[§F.R in §f, §f == §F(3)]")
same(
    "a text enumeration",
    "class §E(str, enum.Enum):\n    A = 'a'\n§e = §E.A",
    "[§e == 'a', §e is §E.A]",
)
same("an integer enumeration", "§E = enum.IntEnum('§E', 'A B')\n§e = §E.B", "[§e + 1, §e is §E.B]")
same("a named tuple", "§P = collections.namedtuple('§P', 'x y', defaults=[2])\n§p = §P(1)",
     "[§p, §p._replace(x=5), §P._field_defaults]")
same("a typed named tuple", "class §P(typing.NamedTuple):\n    a: int\n    b: str = 'x'\n"
     "    def f(self): return self.a\n§p = §P(1)", "[§p, §p.f()]")
classes.proven("a named tuple with another constructor",
     "class §P(collections.namedtuple('Q', 'x y')):\n"
     "    def __new__(cls, xy): return super().__new__(cls, *xy)\n§p = §P((1, 2))", "§p")
classes.proven("a text with another constructor",
     "class §T(str):\n    def __new__(cls, s, pos):\n"
     "        o = super().__new__(cls, s); o.pos = pos; return o\n§t = §T('a', 3)", "§t.pos")
same("a text with an attribute", "class §T(str): pass\n§t = §T('a'); §t.tag = 1", "[§t, §t.tag]")
same("a dict class", "class §D(dict):\n    def __missing__(self, k): return k\n§d = §D(a=1)",
     "[§d['a'], §d['z'], type(§d)]")
classes.proven("a dict that notes what is set",
     "class §D(dict):\n    def __init__(self): super().__init__(); self.log = []\n"
     "    def __setitem__(self, k, v): self.log.append(k); super().__setitem__(k, v)\n"
     "§d = §D(); §d['a'] = 1", "§d.log")
same(
    "a list class",
    "class §L(list):\n    def first(self): return self[0]\n§l = §L([4])",
    "§l.first()",
)
same("an instance with its own pickling",
     "class §C:\n    def __init__(self, n): self.n = n\n    def __reduce__(self): return §C, (self.n + 0,)"
     "\n§c = §C(3)", "§c.n")
same("an instance with its own state",
     "class §C:\n    def __init__(self): self.lock = threading.Lock(); self.n = 2\n"
     "    def __getstate__(self): return {'n': self.n}\n"
     "    def __setstate__(self, s): self.__dict__ = dict(s, lock=None)\n§c = §C()", "§c.n")
told("an instance with a lock", "class §C:\n    def __init__(self): self.lock = threading.Lock()\n"
     "§c = §C()")
same("a proxy", "class §C:\n    def __init__(self, o): self._o = o\n"
     "    def __getattr__(self, n): return getattr(self._o, n)\n§c = §C([1])", "§c.count(1)")
same(
    "an instance that can be called",
    "class §C:\n    def __call__(self): return 5\n§c = §C()",
    "§c()",
)
same("a cached property", "class §C:\n    @functools.cached_property\n    def v(self): return [1]\n"
     "§c = §C(); §c.v.append(2); §d = §C()", "[§c.v, §d.v]")
same("a method for each type", "class §C:\n    @functools.singledispatchmethod\n"
     "    def f(self, x): return 'any'\n    @f.register\n    def _(self, x: int): return 'int'\n"
     "§c = §C()", "[§c.f(1), §c.f('')]")
same("a cached method", "class §C:\n    @functools.lru_cache\n    def f(self, x): return x\n§c = §C()",
     "§c.f(4)")
same("a partial method", "class §C:\n    def f(self, x): return x\n    g = functools.partialmethod(f, 3)",
     "§C().g()")
same("a totally ordered class", "@functools.total_ordering\nclass §C:\n    def __init__(s, n): s.n = n\n"
     "    def __lt__(s, o): return s.n < o.n\n    def __eq__(s, o): return s.n == o.n",
     "§C(2) >= §C(1)")
same("a registered way of pickling", "class §C:\n    def __init__(self, n): self.n = n\n"
     "def §r(o): return §C, (o.n,)\ncopyreg.pickle(§C, §r)\n§c = §C(4)",
     "[§c.n, copyreg.dispatch_table[§C](§c)[1]]")
same("a class with its own hash", "class §C:\n    def __init__(s, n): s.n = n; s.h = hash(n)\n"
     "    def __hash__(s): return s.h\n    def __eq__(s, o): return s.n == o.n\n§d = {§C('a'): 1}",
     "§d.get(§C('a'))")
told("a structure of C", "class §S(ctypes.Structure):\n    _fields_ = [('a', ctypes.c_int)]\n§s = §S(4)",
     "§s.a")
classes.proven("an array of C", "§a = (ctypes.c_double * 3)(1, 2)", "list(§a)")

data = Group(
    "data classes", "import dataclasses, typing\nfrom dataclasses import dataclass, field, fields"
)
same, told = data.same, data.told
same("a data class", "@dataclass\nclass §D:\n    x: int\n    y: list = field(default_factory=list)\n"
     "§d = §D(1)", "[§d, §d == §D(1), dataclasses.asdict(§d)]")
same("its missing defaults", "@dataclass\nclass §D:\n    x: int",
     "[f.default is dataclasses.MISSING for f in fields(§D)]")
same("a class that extends it", "@dataclass\nclass §D:\n    x: int",
     "[dataclass(type('S', (§D,), {'__annotations__': {'y': int}}))(1, 2).y]")
same("required stays required", "@dataclass\nclass §D:\n    x: int",
     "[p.default is p.empty for p in __import__('inspect').signature("
     "dataclass(type('S', (§D,), {}))).parameters.values()]")
same("frozen, with slots", "@dataclass(slots=True, frozen=True)\nclass §D:\n    x: int\n"
     "    _: dataclasses.KW_ONLY\n    k: int = 3\n§d = §D(1)",
     "[§d, dataclasses.replace(§d, x=2), hash(§d) == hash(§D(1)), §D(1, k=4)]")
same("keywords only in what extends it", "@dataclass(kw_only=True)\nclass §D:\n    x: int",
     "[f.kw_only for f in fields(§D)]")
same("class and init variables", "@dataclass\nclass §D:\n    a: typing.ClassVar[int] = 1\n"
     "    b: dataclasses.InitVar[int] = 2\n    c: int = 3\n    def __post_init__(self, b): self.b = b\n"
     "§d = §D()", "[§d.b, [f.name for f in fields(§D)], §D.a]")
same("metadata", "@dataclass\nclass §D:\n    x: int = field(default=1, metadata={'u': 'm'})",
     "dict(fields(§D)[0].metadata)")
same("order", "@dataclass(order=True)\nclass §D:\n    x: int", "§D(1) < §D(2)")
same("a field that is kept by itself", "§f = field(default=3)",
     "[§f.default, §f.default_factory is dataclasses.MISSING, §f.kw_only is dataclasses.MISSING]")
same("the marks themselves", "§m = [dataclasses.MISSING, dataclasses.KW_ONLY]",
     "[§m[0] is dataclasses.MISSING, §m[1] is dataclasses.KW_ONLY]")
same("a made data class", "§D = dataclasses.make_dataclass('§D', [('x', int), ('y', int, 5)])",
     "§D(1).y")

marks = Group(
    "marks of modules",
    "import enum, inspect, unittest.mock, marked, collections, argparse, configparser, queue, typing\n"
    "import marked_slots",
    {
        "marked.py": "class _Mark:\n    pass\nNOTHING = _Mark()\n_other = _Mark()\n"
        "plain = object()\n"
        "class Kept:\n    def __init__(self, n): self.n = n\nDEFAULT = Kept(1)\n",
        "marked_slots.py": "class Mark:\n    __slots__ = ('name',)\n"
        "    def __init__(self, name): self.name = name\n    def __repr__(self): return self.name\n"
        "A = Mark('A')\nB = Mark('B')\n",
    },
)
same = marks.same
same("of an own module", "§a = marked.NOTHING; §b = {1: §a}",
     "[§a is marked.NOTHING, §b[1] is marked.NOTHING]")
same("a private one", "§a = [marked._other]", "§a[0] is marked._other")
same("a plain object", "§a = marked.plain", "§a is marked.plain")
same("with slots", "§a = marked_slots.B", "§a is marked_slots.B")
same("as a default", "def §f(x=marked.NOTHING): return x is marked.NOTHING", "§f()")
same("another instance of its class", "§a = marked._Mark(); §b = [§a]",
     "[§a is marked.NOTHING, §b[0] is §a]")
same("an object with state is a copy of its own", "§a = marked.Kept(2)", "§a.n")
same(
    "of inspect", "§a = inspect.Parameter.empty, inspect._empty", "§a[0] is inspect.Signature.empty"
)
same("a signature", "def §g(x, *, y=1): pass\n§s = inspect.signature(§g)",
     "[str(§s), §s.parameters['x'].default is inspect._empty]")
same("of mock", "§a = unittest.mock.DEFAULT, unittest.mock.sentinel.x",
     "[§a[0] is unittest.mock.DEFAULT, §a[1] is unittest.mock.sentinel.x]")
same("of argparse", "§a = argparse.Namespace(a=1), argparse.SUPPRESS", "§a")
same("a parser", "§p = argparse.ArgumentParser(); §p.add_argument('--x', type=int, default=3)",
     "§p.parse_args([]).x")
same("a parser of configurations", "§p = configparser.ConfigParser(); §p.read_string('[a]\\nb=1')",
     "[§p['a']['b'], §p._interpolation is not None, '§' and §p.get('a', 'z', fallback=2)]")

generic = Group("generics", "import typing, abc\nfrom typing import Generic, TypeVar, Protocol")
same = generic.same
same("a type variable", "§T = TypeVar('§T')\n§l = [§T]", "§l[0] is §T")
same("its bound", "§T = TypeVar('§T', bound=int, covariant=True)",
     "[§T.__bound__, §T.__covariant__, §T.__module__]")
same("a generic class", "§T = TypeVar('§T')\nclass §G(Generic[§T]):\n"
     "    def __init__(self, v): self.v = v\n§g = §G[int](3); §a = §G[int]",
     "[§g.v, §a == §G[int], §G.__parameters__[0] is §T, §g.__orig_class__ == §a]")
same("a generic subclass", "§T = TypeVar('§T')\nclass §G(Generic[§T]): pass\nclass §H(§G[int]): pass\n"
     "§h = §H()", "[isinstance(§h, §G), §H.__orig_bases__]")
same("an annotated function", "§T = TypeVar('§T')\ndef §f(x: list[§T]) -> §T: return x[0]",
     "[typing.get_type_hints(§f)['return'] is §T, §f([1])]")
same("a protocol", "@typing.runtime_checkable\nclass §P(Protocol):\n    def f(self): ...\n"
     "class §C:\n    def f(self): pass\n§c = §C()", "[isinstance(§c, §P), isinstance(3, §P)]")
same("a typed dict", "class §D(typing.TypedDict, total=False):\n    k: int\n§d = §D(k=1)",
     "[§d, §D.__optional_keys__, §D.__annotations__]")
same(
    "a new type",
    "§N = typing.NewType('§N', int)\n§n = §N(3)",
    "[§n, §N.__supertype__, §N.__name__]",
)
same("parameters", "§P = typing.ParamSpec('§P')\n§c = typing.Callable[§P, int]",
     "§c.__parameters__[0] is §P")
same("variadic variables", "§T = typing.TypeVarTuple('§T')\n§l = [§T]", "§l[0] is §T")
same("unions and literals", "§a = typing.Optional[int], typing.Literal['a'], typing.Annotated[int, 3]",
     "§a")
same("a data class that is generic", "import dataclasses\n§T = TypeVar('§T')\n@dataclasses.dataclass\n"
     "class §D(Generic[§T]):\n    x: §T\n§d = §D[int](4)", "§d.x")

GROUPS = [classes, data, marks, generic]
