"""States of pandas, Matplotlib and smaller libraries."""

from __future__ import annotations

from table import Group

# fmt: off

frames = Group("frames", "import numpy as np, pandas as pd")
same, told = frames.same, frames.told
same(
    "a frame",
    "§a = pd.DataFrame({'x': [1, 2], 'y': ['a', None]})",
    "[§a.to_dict(), §a.dtypes.to_dict()]",
)
same("types of extensions", "§a = pd.DataFrame({'i': pd.array([1, None], 'Int64'), 's': pd.array(['a', "
     "None], 'string'), 'c': pd.Categorical(['a', 'b']), 'b': pd.array([True, None], 'boolean')})",
     "[§a.dtypes.to_dict(), §a.isna().sum().sum()]")
same("times and zones", "§a = pd.date_range('2024', periods=3, tz='UTC'), pd.Timedelta('1h'), "
     "pd.Period('2024Q1'), pd.NaT", "§a")
same("missing", "§a = [pd.NA, pd.NaT]", "[§a[0] is pd.NA, §a[1] is pd.NaT]")
same("two names for one frame", "§a = pd.DataFrame({'x': [1]}); §b = [§a]", "§b[0] is §a")
same("attributes and flags", "§a = pd.DataFrame({'x': [1]}); §a.attrs['u'] = 'm'", "§a.attrs")
same("many levels", "§a = pd.DataFrame({'x': [1, 2]}, index=pd.MultiIndex.from_tuples([(1, 'a'), (1, 'b')],"
     " names=['n', 'l']))", "[§a.loc[(1, 'b'), 'x'], §a.index.names]")
same("objects in a column", "§o = [1]; §a = pd.DataFrame({'x': [§o, 2]}, dtype=object)",
     "§a.loc[0, 'x'] is §o")
same(
    "groups",
    "§a = pd.DataFrame({'x': [1, 1, 2], 'y': [1, 2, 3]}).groupby('x')",
    "§a.y.sum().to_dict()",
)
same("a window", "§a = pd.Series([1., 2, 3]).rolling(2)", "§a.sum().tolist()")
same("an index", "§a = pd.Index([1, 2]), pd.RangeIndex(3), pd.IntervalIndex.from_breaks([0, 1])",
     "list(map(list, §a))")
same("sparse", "§a = pd.Series([0, 0, 1], dtype='Sparse[int]')", "[§a.sum(), §a.dtype]")
same(
    "a styler",
    "§a = pd.DataFrame({'x': [1.5]}).style.format('{:.1f}')",
    "'1.5' in §a.to_html(table_uuid='t')",
)
same("a class of the notebook", "class §F(pd.DataFrame):\n    @property\n"
     "    def _constructor(self): return §F\n§a = §F({'x': [1]})", "[type(§a) is §F, type(§a[['x']]) is §F]")
same("a frame over an array", "§x = np.zeros((4, 2)); §a = pd.DataFrame(§x, copy=False)",
     "[§x.__setitem__((0, 0), 7), §a.iloc[0, 0]]")
same("a series over an array", "§x = np.zeros(4); §a = pd.Series(§x, copy=False)",
     "[§x.__setitem__(0, 7), §a.iloc[0]]")
frames.unseen("an array that two objects share", "§x = np.zeros((4, 1)); §a = pd.DataFrame(§x, copy=False); §b = §a[0]",
     "[§x.__setitem__((0, 0), 7), §a.iloc[0, 0]]", "memory that several objects of pandas share")
same("the values of a frame", "§a = pd.DataFrame(np.zeros((4, 2))); §x = §a.to_numpy()",
     "[§x.flags.writeable, §x.sum()]")
same("a copy is a copy", "§a = pd.DataFrame({'x': [1]}); §b = §a.copy()",
     "[§a.__setitem__('x', 5), §b.x.tolist()]")
same("a column that was taken out", "§a = pd.DataFrame({'x': [1]}); §b = §a['x']",
     "[§a.loc.__setitem__((0, 'x'), 5), §b.tolist(), §a.x.tolist()]")
same("a large frame of text", "§a = pd.DataFrame({'x': ['t%d' % i for i in range(20_000)]})",
     "[§a.x[19_999], §a.x.nunique()]")
told("a generator in a frame", "§a = pd.DataFrame({'x': [(i for i in 'a')]})")
told("a frame over what is mapped", "import tempfile\n§a = pd.DataFrame(np.memmap(tempfile.mktemp(), "
     "shape=(3, 2), mode='w+'), copy=False)")
frames.proven(
    "what does not load, in a frame",
    "class §E(Exception):\n    def __init__(self, a, b): super().__init__(a)\n"
    "§e = §E(1, 2); §a = pd.DataFrame({'o': [1, §e]}); del §e",
)
frames.proven(
    "what does not load, in a series",
    "class §E(Exception):\n    def __init__(self, a, b): super().__init__(a)\n"
    "§e = §E(1, 2); §a = pd.Series([1, §e]); del §e",
)

plots = Group("plots", "import matplotlib, matplotlib.pyplot as plt, numpy as np")
same, told = plots.same, plots.told
same("a figure", "§f, §a = plt.subplots(); §a.plot([1, 2, 3]); §a.set_title('t')",
     "[§a.figure is §f, §a.lines[0].get_ydata().tolist(), §a.get_title()]")
same("a figure is pyplot's", "§f = plt.figure('§name'); §f.gca().plot([1])",
     "[§f.number in plt.get_fignums(), plt.fignum_exists('§name')]")
same(
    "a figure that was closed",
    "§f = plt.figure('§gone'); plt.close(§f)",
    "plt.fignum_exists('§gone')",
)
same(
    "lines in two variables", "§f, §a = plt.subplots(); §l, = §a.plot([1, 2])", "§l is §a.lines[0]"
)
same("settings", "plt.rcParams['lines.linewidth'] = 7.5", "plt.rcParams['lines.linewidth']")
same("a map of colours", "§c = plt.get_cmap('viridis')", "§c(0.5)")
same("a figure that no variable holds", "plt.figure('§shown').gca().plot([1]); None",
     "plt.fignum_exists('§shown')")
same("a map of colours that was registered", "matplotlib.colormaps.register(matplotlib.colors."
     "ListedColormap(['r'], name='§c'))", "'§c' in matplotlib.colormaps")

small = Group("smaller libraries", "import pydantic, attrs, tqdm, typing, ipywidgets")
same, told = small.same, small.told
same("a model of pydantic", "class §M(pydantic.BaseModel):\n    x: int\n    y: list[str] = ['a']\n"
     "§m = §M(x=3)", "[§m, §m == §M(x=3), §M.model_validate({'x': '5'}).x]")
small.same("one with a validator", "class §M(pydantic.BaseModel):\n    x: int\n"
     "    @pydantic.field_validator('x')\n    @classmethod\n    def positive(cls, v): return abs(v)\n"
     "§m = §M(x=-3)", "§m.x")
same("a class of attrs", "@attrs.define\nclass §A:\n    x: int\n    y: list = attrs.field(factory=list)\n"
     "§a = §A(1)", "[§a, attrs.fields(§A).x.default is attrs.NOTHING]")
same("a subclass of it", "@attrs.define\nclass §A:\n    x: int\n§N = attrs.NOTHING",
     "[§N is attrs.NOTHING, attrs.define(type('B', (§A,), {'__annotations__': {}}))(2).x]")
told("a bar at work", "§b = tqdm.tqdm(range(3))")
told("a bar that is done", "for _ in (§b := tqdm.tqdm(range(3))): pass\n_ = 0", "[§b.n, §b.total]")
small.unseen("what a bar has added to pandas", "import pandas; tqdm.tqdm.pandas()",
     "hasattr(pandas.DataFrame, 'progress_apply')", "such as by `tqdm.pandas()`")
told("a widget", "§w = ipywidgets.IntSlider()")

GROUPS = [frames, plots, small]
