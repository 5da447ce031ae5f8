"""Gaussian mixture flow matching (GMFlow, arXiv 2504.05304) in JAX.

The subpackages form layers. A module imports only from its own row of this table and from the rows above it:

| layer | subpackages | needs |
|---|---|---|
| method | `gm`, then `flow`, then `losses` and `guidance`, then `solvers` | jax and numpy |
| networks | `models`, then `training` | the extra `weights` (`training`: `train`) |
| tools | `data`, `evaluation`, `interop`, `sharding` | the extra `train` (`interop`: `weights`) |
| pipeline | `pipeline` | the extra `weights` |

Each subpackage is imported when it is first used: `import gmflow_jax` alone does not import jax, and
`from gmflow_jax import solvers` does not import the networks.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__", "data", "evaluation", "flow", "gm", "guidance", "interop", "losses", "models",
    "pipeline", "sharding", "solvers", "training",
]

_SUBPACKAGES = frozenset(__all__) - {"__version__"}

# Type checkers and editors see plain imports. They do not see __getattr__, because with it they would accept
# any name.
if TYPE_CHECKING:
    from gmflow_jax import (
        data,
        evaluation,
        flow,
        gm,
        guidance,
        interop,
        losses,
        models,
        pipeline,
        sharding,
        solvers,
        training,
    )
else:

    def __getattr__(name: str):
        if name in _SUBPACKAGES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES])
