"""A product of 16-bit arrays that is rounded once on every platform, and fast on CPUs.

Accelerators sum 16-bit products in float32 anyway. On a CPU with instructions for 16-bit matrices, XLA uses
them only for a float32 result, which is rounded afterwards; a 16-bit result takes up to nine times as long.
Other compilers may store the float32 result, so the program differs by platform, and the primitive here has a
lowering for each. `jax.lax.platform_dependent` is a conditional, which would keep the values of both branches
for the backward pass.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import ad, batching, mlir, partial_eval

Dimensions = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]

_product_p = Primitive("rounded_dot_general")


def rounded_product(x: jax.Array, y: jax.Array, dimension_numbers: Dimensions) -> jax.Array:
    """Compute `jax.lax.dot_general` of 16-bit arrays of one type; sum in float32 and round the result once.

    It transforms as `jax.lax.dot_general` does, also under the policies of `jax.checkpoint`, except that
    policies which move values to another memory compute it again instead.

    Args:
      x: an array of a 16-bit float type.
      y: an array of the same type.
      dimension_numbers: contracted axes of x and y, and batch axes of x and y.

    Returns:
      The product, in the type of x.
    """
    axes_x, axes_y = _varying_axes(x), _varying_axes(y)
    if axes_x != axes_y:  # inside jax.shard_map; JAX's own operations do this by themselves
        x, y = _vary(x, axes_y - axes_x), _vary(y, axes_x - axes_y)
    return _product_p.bind(x, y, dimension_numbers=dimension_numbers)


def _varying_axes(x: jax.Array) -> frozenset:
    """Return the axes of `jax.shard_map` over which x varies; their attribute depends on the release."""
    kind = jax.typeof(x)
    return getattr(getattr(kind, "manual_axis_type", None), "varying", getattr(kind, "vma", frozenset()))


def _vary(x: jax.Array, axes: frozenset) -> jax.Array:
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


@functools.partial(jax.jit, static_argnames="dimension_numbers")
def _compiled(x: jax.Array, y: jax.Array, *, dimension_numbers: Dimensions) -> jax.Array:
    return _product_p.bind(x, y, dimension_numbers=dimension_numbers)


def _options(dimension_numbers: Dimensions) -> dict[str, Any]:
    """Return the parameters of the primitive `dot_general` that computes the same product."""
    unset = {"precision": None, "preferred_element_type": None, "out_sharding": None}
    return {"dimension_numbers": dimension_numbers, **unset}


def _type(x: Any, y: Any, *, dimension_numbers: Dimensions) -> Any:
    return dot_general_p.abstract_eval(x, y, **_options(dimension_numbers))[0]


def _lowered(preferred: Any, x: jax.Array, y: jax.Array, *, dimension_numbers: Dimensions) -> jax.Array:
    return jax.lax.dot_general(x, y, dimension_numbers, preferred_element_type=preferred).astype(x.dtype)


def _free(ndim: int, *used: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if all(axis not in axes for axes in used))


def _transpose_x(
    cotangent: jax.Array, x: Any, y: jax.Array, *, dimension_numbers: Dimensions, y_first: bool = False
) -> jax.Array:
    """Transpose for x. The axes of the cotangent are those of the batch, of x and of y, or of y and of x."""
    (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
    free_x, free_y = _free(x.aval.ndim, contracted_x, batch_x), _free(y.ndim, contracted_y, batch_y)
    first = len(batch_x) + (0 if y_first else len(free_x))
    of_y = tuple(range(first, first + len(free_y)))
    product = rounded_product(cotangent, y, ((of_y, free_y), (tuple(range(len(batch_x))), batch_y)))
    by_y = [axis for _, axis in sorted(zip(contracted_y, contracted_x, strict=True))]
    order = [*batch_x, *free_x, *by_y]
    return jnp.transpose(product, [order.index(axis) for axis in range(len(order))])


def _transpose_y(cotangent: jax.Array, x: jax.Array, y: Any, *, dimension_numbers: Dimensions) -> jax.Array:
    (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
    swapped = ((contracted_y, contracted_x), (batch_y, batch_x))
    return _transpose_x(cotangent, y, x, dimension_numbers=swapped, y_first=True)


def _batch(args: Any, axes: Any, *, dimension_numbers: Dimensions) -> tuple[jax.Array, int]:
    """Map over axes of x, of y or of both: new batch axes, or one more free axis."""
    (x, y), (axis_x, axis_y) = args, axes

    def shift(group: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
        return group if axis is None else tuple(d + (d >= axis) for d in group)

    contracted, batch = ((shift(of_x, axis_x), shift(of_y, axis_y)) for of_x, of_y in dimension_numbers)
    if axis_x is not None and axis_y is not None:
        batch = ((axis_x, *batch[0]), (axis_y, *batch[1]))
        return rounded_product(x, y, (contracted, batch)), 0
    free_x = _free(x.ndim, contracted[0], batch[0])
    if axis_y is None:
        place = free_x.index(axis_x)
    else:
        place = len(free_x) + _free(y.ndim, contracted[1], batch[1]).index(axis_y)
    return rounded_product(x, y, (contracted, batch)), len(batch[0]) + place


def _keep(policy: Any, unknown: Any, instantiated: Any, equation: Any) -> Any:
    """Let a policy of `jax.checkpoint` treat the product as it treats `dot_general`."""
    lacking = [v for v, has in zip(equation.invars, instantiated, strict=True) if not has]
    if any(unknown):
        return None, equation, [True], [True], lacking
    types = [v.aval for v in equation.invars]
    if policy(dot_general_p, *types, **_options(**equation.params)) is True:
        return equation, None, [False], [False], []
    return equation, equation, [False], [True], lacking


_product_p.def_impl(_compiled)
_product_p.def_abstract_eval(_type)
ad.defbilinear(_product_p, _transpose_x, _transpose_y)
batching.primitive_batchers[_product_p] = _batch
partial_eval.partial_eval_jaxpr_custom_rules[_product_p] = _keep
for _platform, _preferred in ((None, None), ("cpu", jnp.float32)):
    _rule = mlir.lower_fun(functools.partial(_lowered, _preferred), multiple_results=False)
    mlir.register_lowering(_product_p, _rule, platform=_platform)
