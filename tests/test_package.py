"""The time and the dependencies of imports, and that no layer imports from a layer above."""

import ast
import sys
from pathlib import Path

import pytest

import gmflow_jax
from tests.helpers import json_of_python

PACKAGE = Path(gmflow_jax.__file__).parent
HELPERS = ("_meshes", "_safe", "_arguments", "_reductions")  # of the core
CORE = (*HELPERS, "gm", "flow", "losses", "guidance", "solvers")
UPPER = ("data", "evaluation", "interop", "sharding")

# What each part may import of the package: the table of layers.
ALLOWED = {
    "__init__": set(gmflow_jax.__all__),  # under TYPE_CHECKING; that importing it loads none is tested below
    "_files": set(),
    **{name: {"_meshes"} for name in HELPERS},
    "gm": set(HELPERS),
    "flow": {*HELPERS, "gm"},
    "losses": {*HELPERS, "gm", "flow"},
    "guidance": {*HELPERS, "gm", "flow"},
    "solvers": {*HELPERS, "gm", "flow", "guidance"},
    "models": {*HELPERS, "gm"},
    "training": {"_files", *CORE, "models"},
    **{name: {"_files", *CORE, "models", "training", *UPPER} for name in UPPER},
    "pipeline": {"_files", *CORE, "models", "training", *UPPER},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def run(code):
    return json_of_python("-c", code, timeout=120)


def imports(path):
    """Absolute names of all modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ("gmflow_jax", *path.relative_to(PACKAGE).parts)[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_from_a_layer_above(path):
    part = part_of(path)
    assert part in ALLOWED, f"{part} has no place in the table of layers"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in ("experiments", "tests", "torch", "tensorflow"), f"{path} imports {name}"
        if top == "gmflow_jax" and rest:
            assert rest[0] in ALLOWED[part] | {part}, f"{path} imports {name}"
        elif top != "gmflow_jax" and part in CORE:
            allowed = {"jax", "numpy"} | sys.stdlib_module_names
            assert top in allowed, f"{path} imports {name}; the core needs jax and numpy only"


def test_every_subpackage_is_listed():
    """The lazy names in `gmflow_jax` are exactly the subpackages that there are."""
    present = {part_of(path) for path in MODULES} - {"__init__", "_files", *HELPERS}
    assert present == set(gmflow_jax.__all__) - {"__version__"}


def test_type_checkers_see_every_part():
    """The imports under TYPE_CHECKING, which never run, name what `__getattr__` imports."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = [alias.name for statement in block.body for alias in statement.names]
    assert seen == gmflow_jax.__all__[1:]


def test_solvers_import_only_jax_and_numpy():
    code = """
import json, sys, time
import jax, numpy
before = set(sys.modules)
start = time.process_time()
import gmflow_jax.solvers
seconds = time.process_time() - start
print(json.dumps([sorted(set(sys.modules) - before), seconds]))
"""
    modules, seconds = run(code)
    tops = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert tops <= {"gmflow_jax", "jax", "jaxlib", "numpy"}, tops
    parts = {name.split(".")[1] for name in modules if name.startswith("gmflow_jax.")}
    assert parts == {*HELPERS, "gm", "flow", "guidance", "solvers"}
    # Measured: 0.02 s; importing jax takes 1 s.
    assert seconds < 0.3


def test_the_core_works_where_nothing_else_is_installed():
    """Every other package is hidden; then the core samples."""
    code = """
import json, sys
for name in ("flax", "optax", "orbax", "grain", "tensorflow", "torch", "clu", "sklearn", "matplotlib", "PIL",
             "safetensors", "absl", "ml_collections", "chex", "tqdm", "tensorboardX"):
    sys.modules[name] = None
import jax, jax.numpy as jnp
from gmflow_jax import flow, gm, guidance, losses, solvers
denoise = flow.denoiser(lambda x, t: -x)
x = solvers.sample(jax.random.key(0), denoise, jnp.ones((2, 3)), solvers.euler(), flow.time_grid(2))
print(json.dumps(x.shape))
"""
    assert run(code) == [2, 3]


def test_the_extra_weights_is_enough_for_the_pipeline():
    """What only the extra train installs is hidden."""
    pytest.importorskip("flax", reason="the extra weights is not installed")
    code = """
import json, sys
for name in ("PIL", "array_record", "clu", "matplotlib", "ml_collections", "sklearn", "tensorboardX",
             "tensorflow_datasets"):
    sys.modules[name] = None
from gmflow_jax import interop, pipeline
print(json.dumps([interop.download.__name__, pipeline.load.__name__]))
"""
    assert run(code) == ["download", "load"]


def test_subpackages_load_on_first_use():
    code = """
import json, sys
import gmflow_jax
before = sorted(name for name in sys.modules if name.startswith("gmflow_jax."))
flow = gmflow_jax.flow
print(json.dumps([before, "jax" in sys.modules, flow.__name__, "gmflow_jax.models" in sys.modules]))
"""
    assert run(code) == [[], True, "gmflow_jax.flow", False]
    assert {"gm", "models", "solvers"} <= set(dir(gmflow_jax))
    with pytest.raises(AttributeError, match="has no attribute 'solver'"):
        _ = gmflow_jax.solver


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
