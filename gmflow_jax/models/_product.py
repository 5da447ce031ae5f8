"""The product of activations and parameters: rounded once, with a gradient in the type of the parameters.

Accelerators sum 16-bit products in float32 anyway. On a CPU with instructions for 16-bit matrices, XLA uses
them only for a float32 result, which is rounded afterwards; a 16-bit result takes up to nine times as long.
Other compilers may store the float32 result, so the program differs by platform, and the primitive here has a
lowering for each. `jax.lax.platform_dependent` is a conditional, which would keep the values of both branches
for the backward pass.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import ad, batching, mlir, partial_eval

from gmflow_jax._meshes import vary_alike

Dimensions = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]

_product_p = Primitive("product")


def product(
    x: jax.Array, y: jax.Array, dimension_numbers: Dimensions, precision: Any = None
) -> jax.Array:
    """Compute `jax.lax.dot_general` in the type of x; sum 16-bit products in float32 and round once.

    It transforms as `jax.lax.dot_general` does, also under the policies of `jax.checkpoint`, with two
    exceptions: policies which move values to another memory compute it again instead, and arrays that are
    split over the Explicit axes of a mesh have no gradient (networks make these axes Auto). The gradient of y
    is not rounded to the type of x, so that devices sum their parts of it in the type of y, or in float32.

    Args:
      x: an array of a float type, such as activations.
      y: an array of a float type, such as parameters; it is converted to the type of x.
      dimension_numbers: contracted axes of x and y, and batch axes of x and y.
      precision: precision of float32 products on accelerators; None is JAX's default.

    Returns:
      The product, in the type of x.
    """
    x, y = vary_alike((x, y))
    if precision is None:  # of the context in which the product is traced, not lowered
        precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009  # not in its type
    return _product_p.bind(x, y, dimension_numbers=dimension_numbers, precision=precision)


@functools.partial(jax.jit, static_argnames=("dimension_numbers", "precision"))
def _compiled(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    return _product_p.bind(x, y, **params)


def _as_dot_general(
    x: Any, y: Any, *, dimension_numbers: Dimensions, precision: Any
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Return the types of the factors and the parameters of the same `dot_general`."""
    unset = {"preferred_element_type": None, "out_sharding": None}
    precision = None if precision is None else (precision, precision)
    return (x, y.update(dtype=x.dtype)), {
        "dimension_numbers": dimension_numbers, "precision": precision, **unset,
    }  # fmt: skip


def _type(x: Any, y: Any, **params: Any) -> Any:
    types, options = _as_dot_general(x, y, **params)
    return dot_general_p.abstract_eval(*types, **options)[0]


def _lowered(
    is_cpu: bool, x: jax.Array, y: jax.Array, *, dimension_numbers: Dimensions, precision: Any
) -> jax.Array:
    y = y.astype(x.dtype)
    if not is_cpu:
        return jax.lax.dot_general(x, y, dimension_numbers, precision)
    options = {"precision": precision, "preferred_element_type": _sum_type(x)}
    return _product_of_matrices(x, y, dimension_numbers, **options).astype(x.dtype)


def _product_of_matrices(
    x: jax.Array, y: jax.Array, dimension_numbers: Dimensions, **options: Any
) -> jax.Array:
    """Compute `jax.lax.dot_general` by matrices where reshaping suffices.

    This is faster on CPUs, where XLA also fails for some 16-bit arrays of three axes. XLA for TPUs would copy
    what is reshaped.
    """
    contracted, batch = dimension_numbers
    side_x, side_y = (_side(v.ndim, axes) for v, axes in zip((x, y), contracted, strict=True))
    if batch != ((), ()) or side_x is None or side_y is None:
        return jax.lax.dot_general(x, y, dimension_numbers, **options)
    free = [
        [v.shape[axis] for axis in _free(v.ndim, axes)]
        for v, axes in zip((x, y), contracted, strict=True)
    ]  # fmt: skip
    size = math.prod(x.shape[axis] for axis in contracted[0])
    x, y = (
        v.reshape((math.prod(rest), size) if side else (size, math.prod(rest)))
        for v, rest, side in zip((x, y), free, (side_x, side_y), strict=True)
    )
    matrices = (((side_x,), (side_y,)), ((), ()))
    return jax.lax.dot_general(x, y, matrices, **options).reshape(free[0] + free[1])


def _side(ndim: int, axes: tuple[int, ...]) -> int | None:
    """Return 0 if these axes come first, 1 if they come last, and None otherwise."""
    ends = tuple(range(len(axes))), tuple(range(ndim - len(axes), ndim))
    return ends.index(axes) if axes in ends else None


def _sum_type(x: jax.Array) -> Any:
    return jnp.float32 if x.dtype.itemsize == 2 else x.dtype


def _free(ndim: int, *used: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if all(axis not in axes for axes in used))


def _transpose_x(
    cotangent: jax.Array, x: Any, y: jax.Array, *, dimension_numbers: Dimensions, precision: Any
) -> jax.Array:
    """Multiply the cotangent, whose axes are those of the batch, of x and of y, by y."""
    (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
    free_x, free_y = _free(x.aval.ndim, contracted_x, batch_x), _free(y.ndim, contracted_y, batch_y)
    of_y = tuple(range(cotangent.ndim - len(free_y), cotangent.ndim))
    batch = tuple(range(len(batch_x)))
    gradient = product(cotangent, y, ((of_y, free_y), (batch, batch_y)), precision)
    by_y = [axis for _, axis in sorted(zip(contracted_y, contracted_x, strict=True))]
    return _in_order(gradient, [*batch_x, *free_x, *by_y])


def _transpose_y(
    cotangent: jax.Array, x: jax.Array, y: Any, *, dimension_numbers: Dimensions, precision: Any
) -> jax.Array:
    """Multiply x by the cotangent; in this order, the result for a matrix y needs no transposition."""
    (contracted_x, contracted_y), (batch_x, batch_y) = dimension_numbers
    free_x, free_y = _free(x.ndim, contracted_x, batch_x), _free(y.aval.ndim, contracted_y, batch_y)
    of_x = tuple(range(len(batch_x), len(batch_x) + len(free_x)))
    dimensions = ((free_x, of_x), (batch_x, tuple(range(len(batch_x)))))
    options = {"precision": precision, "preferred_element_type": _sum_type(x)}
    on_cpu, elsewhere = (
        functools.partial(multiply, dimension_numbers=dimensions, **options)
        for multiply in (_product_of_matrices, jax.lax.dot_general)
    )
    if x.ndim == cotangent.ndim == 2:
        gradient = elsewhere(x, cotangent)
    else:
        gradient = jax.lax.platform_dependent(x, cotangent, cpu=on_cpu, default=elsewhere)
    by_x = [axis for _, axis in sorted(zip(contracted_x, contracted_y, strict=True))]
    return _in_order(gradient, [*batch_y, *by_x, *free_y]).astype(y.aval.dtype)


def _in_order(x: jax.Array, axes: list[int]) -> jax.Array:
    """Transpose x, whose axes have these numbers in the result."""
    return x if axes == sorted(axes) else jnp.transpose(x, [axes.index(axis) for axis in range(x.ndim)])


def _batch(args: Any, axes: Any, *, dimension_numbers: Dimensions, precision: Any) -> tuple[jax.Array, int]:
    """Map over axes of x, of y or of both: new batch axes, or one more free axis."""
    (x, y), (axis_x, axis_y) = args, axes

    def shift(group: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
        return group if axis is None else tuple(d + (d >= axis) for d in group)

    contracted, batch = ((shift(of_x, axis_x), shift(of_y, axis_y)) for of_x, of_y in dimension_numbers)
    if axis_x is not None and axis_y is not None:
        batch = ((axis_x, *batch[0]), (axis_y, *batch[1]))
        return product(x, y, (contracted, batch), precision), 0
    free_x = _free(x.ndim, contracted[0], batch[0])
    if axis_y is None:
        place = free_x.index(axis_x)
    else:
        place = len(free_x) + _free(y.ndim, contracted[1], batch[1]).index(axis_y)
    return product(x, y, (contracted, batch), precision), len(batch[0]) + place


def _keep(policy: Any, unknown: Any, instantiated: Any, equation: Any) -> Any:
    """Let a policy of `jax.checkpoint` treat the product as it treats `dot_general`."""
    lacking = [v for v, has in zip(equation.invars, instantiated, strict=True) if not has]
    if any(unknown):
        return None, equation, [True], [True], lacking
    types, options = _as_dot_general(*(v.aval for v in equation.invars), **equation.params)
    if policy(dot_general_p, *types, **options) is True:
        return equation, None, [False], [False], []
    return equation, equation, [False], [True], lacking


_product_p.def_impl(_compiled)
_product_p.def_abstract_eval(_type)
ad.defbilinear(_product_p, _transpose_x, _transpose_y)
batching.primitive_batchers[_product_p] = _batch
partial_eval.partial_eval_jaxpr_custom_rules[_product_p] = _keep
for _platform in (None, "cpu"):
    _rule = mlir.lower_fun(functools.partial(_lowered, _platform == "cpu"), multiple_results=False)
    mlir.register_lowering(_product_p, _rule, platform=_platform)
