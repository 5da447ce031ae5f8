"""The API reference lists every public name, and what the docstrings refer to exists."""

import ast
import html
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import gmflow_jax

PACKAGE = pathlib.Path(gmflow_jax.__file__).parent
BUILD = PACKAGE.parent / ".ci" / "docs.py"
SUBPACKAGES = sorted(set(gmflow_jax.__all__) - {"__version__"})
each_subpackage = pytest.mark.parametrize("subpackage", SUBPACKAGES)

SIGNATURE = re.compile(r'<span class="(?:signature|annotation)[^"]*">.*?</span>\n', re.DOTALL)
PRIVATE = re.compile(r"\bjaxlib\b|\._src\b")
# In backticks: a name that starts with one of the subpackages, such as `gm.tilt` or `gmflow_jax.gm.tilt(q)`.
REFERENCE = re.compile(rf"`(?:gmflow_jax\.)?((?:{'|'.join(SUBPACKAGES)})(?:\.[A-Za-z]\w*)+)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of every subpackage."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(BUILD), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return {name: (folder / "gmflow_jax" / f"{name}.html").read_text() for name in SUBPACKAGES}


def load(subpackage):
    return importlib.import_module(f"gmflow_jax.{subpackage}")


@each_subpackage
def test_the_page_lists_every_public_name(pages, subpackage):
    for name in load(subpackage).__all__:
        assert f'<section id="{name}">' in pages[subpackage], f"the page of {subpackage} lacks {name}"


@each_subpackage
def test_signatures_show_public_names_of_types(pages, subpackage):
    for signature in SIGNATURE.findall(pages[subpackage]):
        text = html.unescape(re.sub(r"<[^>]*>", "", signature))
        assert not PRIVATE.search(text), f"add the type to _PUBLIC_NAMES in .ci/docs.py: {text}"


@each_subpackage
def test_public_functions_and_classes_have_docstrings(subpackage):
    module = load(subpackage)
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            # Dataclasses and named tuples without a docstring are given one that begins with "Name(".
            documented = value.__doc__ and not value.__doc__.startswith(f"{name}(")
            assert documented, f"{subpackage}.{name} has no docstring"


@each_subpackage
def test_what_a_subpackage_imports_from_its_modules_is_public(subpackage):
    module = load(subpackage)
    if hasattr(module, "__path__"):
        found = {name for name in vars(module) if not name.startswith("_")}
        assert found == set(module.__all__)


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


def test_references_lead_somewhere():
    for path in sorted(PACKAGE.rglob("*.py")):
        for reference in REFERENCE.findall("\n".join(docstrings(path))):
            subpackage, *names = reference.split(".")
            value = load(subpackage)
            for name in names:
                known = hasattr(value, name) or name in getattr(value, "__annotations__", {})
                assert known, f"{path} refers to `{reference}`, which does not exist"
                value = getattr(value, name, None)
