"""Networks as pure functions of a nested dict of arrays."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

Params = dict[str, Any]


def functional(model: nnx.Module, method: str = "__call__") -> tuple[Callable[..., Any], Params]:
    """Splits a network into a pure function and its parameters.

    Returns `(apply, params)`: `params` is a nested dict of arrays with names as keys, and
    `apply(params, *inputs)` calls the network, or its `method`. Use plain `jax.jit`, `jax.grad` and
    optax on them.
    """
    graphdef, state = nnx.split(model)

    def apply(params: Params, *inputs: Any, **options: Any) -> Any:
        return getattr(nnx.merge(graphdef, params), method)(*inputs, **options)

    return apply, nnx.to_pure_dict(state)


def init_params(model_class: type[nnx.Module], config: Any, key: Array) -> Params:
    """Draws the initial parameters of `model_class(config, rngs)` from a key.

    Pure, so it can be compiled with output shardings, and no device need hold all parameters.
    """
    return functional(model_class(config, nnx.Rngs(key)))[1]


def abstract(model_class: type[nnx.Module], config: Any) -> tuple[Callable[..., Any], Params]:
    """`functional` of `model_class(config, rngs)` that allocates nothing.

    The leaves of the parameters are `jax.ShapeDtypeStruct`s.
    """
    return functional(nnx.eval_shape(lambda: model_class(config, nnx.Rngs(0))))


def from_params(model_class: type[nnx.Module], config: Any, params: Params) -> nnx.Module:
    """`model_class(config, rngs)` with these parameters, which are neither copied nor checked."""
    model = nnx.eval_shape(lambda: model_class(config, nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(model), params)


def num_params(params: Params) -> int:
    """Counts the numbers in a nested dict of arrays or of `ShapeDtypeStruct`s."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def fingerprint(params: Params, dtype: Any = None) -> str:
    """SHA-256 of parameters: their sorted names, shapes, and values as they are or in a type; hex digits."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for name, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        digest.update(f"{name} {leaf.shape} ".encode())
        digest.update(np.asarray(leaf, dtype).tobytes())
    return digest.hexdigest()
