"""Networks on meshes with Explicit axes, the default of `jax.make_mesh`."""

import functools
import inspect
from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def with_auto_axes(method: Callable) -> Callable:
    """Let a method of a network accept arrays that are split over the Explicit axes of a mesh.

    On Explicit axes JAX asks for the sharding of the result of many operations, which layers do not give.
    Inside the method all axes are Auto, so XLA chooses these shardings. Results are split along their first
    axis as the first array among the arguments is; on other meshes the method is called as it is.

    Args:
      method: method(self, *args) of an `nnx.Module` without random numbers or other state that changes.

    Returns:
      The method.
    """

    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self, *args, **options):
        bound = signature.bind(self, *args, **options)  # in the order of the parameters
        _, *args = bound.args
        options = bound.kwargs
        arrays, rest = _partition((args, options))
        rows = _rows(arrays)
        if rows is None:
            return method(self, *args, **options)
        graphdef, params = nnx.split(self)

        @functools.partial(jax.sharding.auto_axes, out_sharding=rows)
        def run(params, arrays):
            args, options = _join(arrays, rest)
            return method(nnx.merge(graphdef, params), *args, **options)

        return run(params, arrays)  # pyright: ignore[reportCallIssue]  # typed as a decorator of one argument

    return call


def _partition(tree) -> tuple[list[jax.Array], tuple]:
    """Separate arrays from other leaves, such as a batch size, which must stay Python values."""
    leaves, treedef = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
    others = [None if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    return arrays, (treedef, is_array, others)


def _join(arrays: list[jax.Array], rest: tuple):
    treedef, is_array, others = rest
    remaining = iter(arrays)
    leaves = [next(remaining) if array else leaf for array, leaf in zip(is_array, others, strict=True)]
    return treedef.unflatten(leaves)


def _rows(arrays: list[jax.Array]) -> NamedSharding | None:
    """Return the sharding of rows on the Explicit mesh of the first array, or None if it is on none."""
    for array in arrays[:1]:
        sharding = jax.typeof(array).sharding
        if AxisType.Explicit in getattr(sharding.mesh, "axis_types", ()) and array.ndim:
            return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return None
