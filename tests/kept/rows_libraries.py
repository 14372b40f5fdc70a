"""States of libraries that are too large for every machine: ``make test-libraries`` has them."""

from __future__ import annotations

from table import Group

torches = Group(
    "torch",
    "import torch, numpy as np\nfrom torch import nn\ntorch.manual_seed(1)",
    needs=("torch",),
)
same, told = torches.same, torches.told
same("a tensor", "§t = torch.arange(6.).reshape(2, 3)", "[§t, §t.dtype, §t.stride()]")
same("types", "§t = [torch.ones(2, dtype=d) for d in (torch.float16, torch.bfloat16, torch.int8, "
     "torch.bool, torch.complex64)]", "[(t.dtype, t.sum().item()) for t in §t]")  # fmt: skip
same("views share their memory", "§t = torch.zeros(4); §v = §t[1:3]",
     "[§v.fill_(7).sum().item(), §t]")  # fmt: skip
same("a tensor over an array", "§a = np.zeros(3); §t = torch.from_numpy(§a)",
     "[§t.add_(2) is §t, §a.tolist()]")  # fmt: skip
same("a model", "§m = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)); §x = torch.ones(2, 3)",
     "§m(§x).detach()")  # fmt: skip
same("an optimizer goes on where it was",
     "§m = nn.Linear(2, 1); §o = torch.optim.Adam(§m.parameters())\n"
     "§m(torch.ones(1, 2)).sum().backward(); §o.step()",
     "[§o.param_groups[0]['params'][0] is §m.weight, §o.state[§m.weight]['exp_avg']]")  # fmt: skip
same("gradients", "§w = torch.ones(2, requires_grad=True); (§w * 3).sum().backward()", "§w.grad")
same("shared parameters", "§a = nn.Linear(2, 2); §b = nn.Linear(2, 2); §b.weight = §a.weight",
     "§b.weight is §a.weight")  # fmt: skip
same("a hook of a tensor", "§w = torch.ones(2, requires_grad=True)\n§h = §w.register_hook(lambda g: g * 0)",
     "[(§w * 2).sum().backward(), §w.grad][1]")  # fmt: skip
told("a graph that is alive", "§w = torch.ones(2, requires_grad=True); §l = (§w * 2).sum()",
     "§l.grad_fn is not None", "§l")  # fmt: skip
same("default type", "torch.set_default_dtype(torch.float64)", "torch.tensor(1.).dtype")
same("deterministic algorithms", "torch.use_deterministic_algorithms(True, warn_only=True)",
     "torch.are_deterministic_algorithms_enabled()")  # fmt: skip
same("random numbers", "§r = torch.rand(1)", "torch.rand(2)")
same("a data set and its loader",
     "from torch.utils.data import DataLoader, TensorDataset\n"
     "§d = DataLoader(TensorDataset(torch.arange(4.)), batch_size=2)",
     "[b[0].tolist() for b in §d]")  # fmt: skip
same("a generator of random numbers", "§g = torch.Generator().manual_seed(3); torch.rand(2, generator=§g)",
     "torch.rand(2, generator=§g)")  # fmt: skip

jaxes = Group(
    "jax",
    "import jax, jax.numpy as jnp\njax.config.update('jax_enable_x64', True)",
    needs=("jax",),
    pure=True,
)
same, told = jaxes.same, jaxes.told
same("whole numbers of 64 bits", "§a = jnp.array([2**40 + 1, 7])", "[§a, §a.dtype]")
same("fractions of 64 bits", "§a = jnp.array(1 / 3)", "[repr(float(§a)), §a.dtype]")
same(
    "a weak type",
    "§a = jnp.asarray(1.5) * 1; §b = jax.lax.full((), 2.0)",
    "[(§b + §a).dtype, §b.weak_type]",
)
same("a key", "§k = jax.random.key(3)", "jax.random.uniform(§k, (2,))")
same("a tree of parameters", "§p = {'w': jnp.ones((2, 2)), 'b': [jnp.zeros(2)]}",
     "jax.tree.map(lambda a: a.shape, §p)")  # fmt: skip
same("a compiled function", "§f = jax.jit(lambda x: x * 2)", "§f(jnp.arange(3))")
same("64 bits are on", "pass", "jax.config.jax_enable_x64")

learned = Group(
    "scikit-learn",
    "import numpy as np, sklearn\nfrom sklearn import datasets, linear_model, ensemble, pipeline, "
    "preprocessing\nX, y = datasets.make_classification(60, random_state=0)",
    needs=("sklearn",),
)
same, told = learned.same, learned.told
same("a model", "§m = linear_model.LogisticRegression().fit(X, y)", "§m.predict_proba(X[:2])")
same(
    "a forest",
    "§m = ensemble.RandomForestClassifier(5, random_state=0).fit(X, y)",
    "§m.predict(X).sum()",
)
same("a pipeline", "§p = pipeline.make_pipeline(preprocessing.StandardScaler(), "
     "linear_model.LogisticRegression()).fit(X, y)", "[§p.score(X, y), list(§p.named_steps)]")  # fmt: skip
same("a pipeline with a function of the notebook",
     "def §f(a): return a * 2\n§p = pipeline.make_pipeline(preprocessing.FunctionTransformer(§f))",
     "§p.fit_transform(np.ones((1, 2)))")  # fmt: skip
same("settings", "sklearn.set_config(transform_output='pandas', display='text')",
     "[sklearn.get_config()[n] for n in ('transform_output', 'display')]")  # fmt: skip

sciences = Group("scipy", "import numpy as np, scipy.sparse as sp", needs=("scipy",))
same, told = sciences.same, sciences.told
same(
    "sparse",
    "§a = sp.random(20, 20, 0.2, 'csr', random_state=0)",
    "[§a.nnz, §a.sum(), type(§a).__name__]",
)
same(
    "a frozen distribution",
    "from scipy import stats\n§d = stats.norm(2, 3)",
    "[§d.mean(), §d.ppf(0.9)]",
)
same("an interpolation", "from scipy.interpolate import CubicSpline\n§s = CubicSpline([0, 1, 2], [0, 1, 4])",
     "float(§s(1.5))")  # fmt: skip

polar = Group("polars", "import polars as pl", needs=("polars",), pure=True)
same, told = polar.same, polar.told
same("a frame", "§f = pl.DataFrame({'a': [1, 2, None], 'b': ['x', 'y', 'z'], 'c': [[1], [], [2, 3]]})",
     "[§f.rows(), §f.schema]")  # fmt: skip
same(
    "a lazy frame",
    "§l = pl.LazyFrame({'a': [1, 2]}).filter(pl.col('a') > 1)",
    "§l.collect().rows()",
)
same(
    "a series of categories", "§s = pl.Series('s', ['a', 'b', 'a'], pl.Categorical)", "§s.to_list()"
)

arrows = Group("pyarrow", "import pyarrow as pa, pandas as pd", needs=("pyarrow",))
same, told = arrows.same, arrows.told
same("a table", "§t = pa.table({'a': [1, None], 'b': ['x', 'y']})", "[§t.to_pydict(), §t.schema]")
same("a slice", "§a = pa.array(range(1000))[10:13]", "§a.to_pylist()")
same("a frame over Arrow", "§f = pd.DataFrame({'a': pd.array(['x', None], 'string[pyarrow]')})",
     "[§f.a.isna().tolist(), str(§f.dtypes['a'])]")  # fmt: skip

boosts = Group(
    "boosters", "import numpy as np\nX = np.random.default_rng(0).random((80, 3)); y = X[:, 0] > 0.5",
    needs=("xgboost", "lightgbm"), pure=True,
)  # fmt: skip
same, told = boosts.same, boosts.told
same(
    "XGBoost",
    "import xgboost\n§m = xgboost.XGBClassifier(n_estimators=3).fit(X, y)",
    "§m.predict(X).sum()",
)
same("LightGBM", "import lightgbm\n§m = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, y)",
     "§m.predict(X).sum()")  # fmt: skip
told("a matrix of XGBoost", "import xgboost\n§d = xgboost.DMatrix(X, y)", "§d.num_row()", "§d")

ducks = Group("duckdb", "import duckdb", needs=("duckdb",), pure=True)
same, told = ducks.same, ducks.told
told("a connection", "§c = duckdb.connect()", "0", "§c")
told("tables of the default connection", "duckdb.sql('create table §t as select 1 a'); pass",
     "duckdb.sql('from §t').fetchall()", "duckdb")  # fmt: skip
same("what was fetched", "§r = duckdb.sql('select 1 a, 2 b').fetchall()", "§r")

models = Group("pydantic", "import pydantic", needs=("pydantic",))
same, told = models.same, models.told
same("a model", "class §M(pydantic.BaseModel):\n    a: int\n    b: list[str] = []\n§m = §M(a=1)",
     "[§m, type(§m) is §M, §M(a='2').a]")  # fmt: skip
same("a model with a validator",
     "class §M(pydantic.BaseModel):\n    a: int\n    @pydantic.field_validator('a')\n    @classmethod\n"
     "    def positive(cls, v):\n        if v < 0: raise ValueError('no')\n        return v\n§m = §M(a=1)",
     "[§m.a, §M.model_validate({'a': 3}).a]")  # fmt: skip

shown = Group(
    "plotly and networkx",
    "import plotly.graph_objects as go, networkx as nx",
    needs=("plotly", "networkx"),
)
same, told = shown.same, shown.told
same("a figure", "§f = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))", "§f.to_dict()['data'][0]['y']")
same("a graph", "§g = nx.path_graph(4); §g.nodes[1]['c'] = 'x'", "[list(§g.edges), §g.nodes[1]]")

speech = Group(
    "transformers", "import torch, transformers\nfrom transformers import BertConfig, BertModel",
    needs=("torch", "transformers"),
)  # fmt: skip
same, told = speech.same, speech.told
same("a model made on the spot",
     "torch.manual_seed(0)\n§m = BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, "
     "num_attention_heads=2, intermediate_size=8)).eval()",
     "§m(torch.arange(4)[None]).last_hidden_state.detach().sum().item()")  # fmt: skip

GROUPS = [
    torches, jaxes, learned, sciences, polar, arrows, boosts, ducks, models, shown, speech,
]  # fmt: skip
