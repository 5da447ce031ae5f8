"""Networks as pure functions of a nested dict of arrays."""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

Params = dict[str, Any]
NetworkT = TypeVar("NetworkT", bound=nnx.Module)


def functional(model: nnx.Module, method: str = "__call__") -> tuple[Callable[..., Any], Params]:
    """Split a network into a pure function and its parameters.

    Args:
      model: the network.
      method: the method that the function calls.

    Returns:
      `(apply, params)`. `params` is a nested dict of arrays, and `apply(params, *inputs)` calls the
      network with these parameters. `jax.jit`, `jax.grad` and optax work on both as usual.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from gmflow_jax import models
      >>> config = models.GMMLPConfig(num_components=4, embed_dim=8, width=16, depth=2)
      >>> apply, params = models.functional(models.GMMLP(config, nnx.Rngs(0)))
      >>> sorted(params)
      ['log_std', 'log_weights', 'means', 'trunk']
      >>> x_t = jax.numpy.zeros((3, 2))
      >>> jax.jit(apply)(params, x_t, 0.5).means.shape
      (3, 4, 2)
    """
    graphdef, state = nnx.split(model)

    def apply(params: Params, *inputs: Any, **options: Any) -> Any:
        return getattr(nnx.merge(graphdef, params), method)(*inputs, **options)

    return apply, nnx.to_pure_dict(state)


def init_params(model_class: Callable[[Any, nnx.Rngs], nnx.Module], config: Any, key: jax.Array) -> Params:
    """Draw the initial parameters of a network.

    The function is pure. Compile it with output shardings to draw parameters that are too large for
    one device.

    Args:
      model_class: class of the network, such as `GMDiT`.
      config: its configuration.
      key: PRNG key.

    Returns:
      The parameters as a nested dict of arrays.
    """
    return functional(model_class(config, nnx.Rngs(key)))[1]


def abstract(
    model_class: Callable[[Any, nnx.Rngs], nnx.Module], config: Any
) -> tuple[Callable[..., Any], Params]:
    """Split `model_class(config, rngs)` as `functional` does, but allocate no arrays.

    The leaves of the parameters are `jax.ShapeDtypeStruct`s.
    """
    return functional(_outline(model_class, config))


def from_params(model_class: Callable[[Any, nnx.Rngs], NetworkT], config: Any, params: Params) -> NetworkT:
    """Make a network from its parameters, which are neither copied nor checked.

    Args:
      model_class: class of the network, such as `GMDiT`.
      config: its configuration.
      params: parameters as a nested dict of arrays, as `functional` and `init_params` return them.

    Returns:
      The network.
    """
    return nnx.merge(nnx.graphdef(_outline(model_class, config)), params)


def _outline(model_class: Callable[[Any, nnx.Rngs], NetworkT], config: Any) -> NetworkT:
    """Construct a network without arrays, only once for equal configurations.

    It takes up to a second, and a bundle that is loaded needs each network several times.
    """
    if not _equals_by_value(config):
        return _construct(model_class, config)
    # The types and shardings of the parameters depend on these, too.
    context = jax.dtypes.canonicalize_dtype("float64"), jax.sharding.get_abstract_mesh()
    return _construct_once(model_class, config, context)


def _construct(model_class: Callable[[Any, nnx.Rngs], NetworkT], config: Any, _: Any = None) -> NetworkT:
    return nnx.eval_shape(lambda: model_class(config, nnx.Rngs(0)))


_construct_once = functools.lru_cache(maxsize=64)(_construct)


def _equals_by_value(config: Any) -> bool:
    if type(config).__eq__ is object.__eq__:
        return False
    try:
        hash(config)
    except TypeError:  # for one that can change
        return False
    return True


def num_params(params: Params) -> int:
    """Count the numbers in a nested dict of arrays or of `jax.ShapeDtypeStruct`s."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def fingerprint(params: Params, dtype: Any = None) -> str:
    """Compute the SHA-256 of parameters: of their names in sorted order, shapes and values.

    Args:
      params: nested dict of arrays.
      dtype: type that values are converted to first; None keeps their types.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for name, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        digest.update(f"{name} {leaf.shape} ".encode())
        digest.update(np.asarray(leaf, dtype).tobytes())
    return digest.hexdigest()
