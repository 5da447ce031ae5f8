"""Gaussian mixture flow matching (GMFlow, arXiv 2504.05304) in JAX.

Layers, bottom up; nothing imports upward::

    gm -> flow -> losses, guidance -> solvers          need jax only
    models -> training -> data, evaluation, interop, sharding    need the extra "train"
    interop -> pipeline                                needs the extra "weights"

Subpackages load on first use, so `import gmflow_jax.solvers` costs no more than importing jax.
"""

import importlib

__version__ = "0.1.0"

_SUBPACKAGES = frozenset({
    "data", "evaluation", "flow", "gm", "guidance", "interop", "losses", "models", "pipeline",
    "sharding", "solvers", "training",
})
__all__ = ["__version__", *sorted(_SUBPACKAGES)]


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_SUBPACKAGES])
