"""Build the API reference from the docstrings: python .ci/docs.py [FOLDER], build/docs by default.

The pages are made by pdoc, with maths rendered by MathJax. A warning of pdoc is an error.
"""

import inspect
import pathlib
import re
import sys
import warnings

import jax
import optax
import pdoc
from flax import nnx

import gmflow_jax

# pdoc names a type by the module that defines it, which may be private. These are the names to show.
_PUBLIC_NAMES = {
    "jax.typing.ArrayLike": jax.typing.ArrayLike,  # first: a union that holds jax.Array
    "jax.Array": jax.Array,
    "jax.Device": jax.Device,
    "jax.sharding.Mesh": jax.sharding.Mesh,
    "jax.stages.Compiled": jax.stages.Compiled,
    "optax.GradientTransformation": optax.GradientTransformation,
    "nnx.Module": nnx.Module,
    "nnx.Rngs": nnx.Rngs,
}
_UNION = re.compile(r"\b(?:typing\.)?Union\[([\w.]+)(, NoneType)?\]")
_MATHS = re.compile(r"\\\(.*?\\\)|\\\[.*?\\\]|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)


def _with_public_names(format_annotation):
    """Format annotations with the names above."""
    printed = {name: format_annotation(value) for name, value in _PUBLIC_NAMES.items()}
    printed = {name: re.sub(r"^Union\[(.*)\]$", r"\1", text) for name, text in printed.items()}

    def format_with_public_names(annotation, *args, **kwargs) -> str:
        text = format_annotation(annotation, *args, **kwargs)
        for name, private in printed.items():
            text = text.replace(private, name)
        text = _UNION.sub(lambda union: union[1] + (" | None" if union[2] else ""), text)
        return text.replace("~", "")  # of type variables

    return format_with_public_names


def _escaped(text: str) -> str:
    return re.sub(r"([\\*])", r"\\\1", text)


def _with_escapes(convert):
    """Keep Markdown from reading the backslashes and asterisks of maths, and of **options in a list."""

    def convert_and_escape(docstring: str) -> str:
        text = _MATHS.sub(lambda maths: _escaped(maths[0]), convert(docstring))
        return re.sub(r"(?m)(?<=^ - \*\*)\*+", lambda asterisks: _escaped(asterisks[0]), text)

    return convert_and_escape


def main(folder: str = "build/docs") -> None:
    warnings.simplefilter("error", UserWarning)  # failed imports, names and types that do not resolve
    formatter = _with_public_names(inspect.formatannotation)
    inspect.formatannotation = formatter  # of parameters
    pdoc.doc.formatannotation = formatter  # of returned values and attributes
    pdoc.docstrings.google = _with_escapes(pdoc.docstrings.google)
    version = f"gmflow_jax {gmflow_jax.__version__}"
    pdoc.render.configure(docformat="google", math=True, footer_text=version)
    pdoc.pdoc("gmflow_jax", output_directory=pathlib.Path(folder))
    print(f"The API reference is in {folder}/index.html.")


if __name__ == "__main__":
    main(*sys.argv[1:])
