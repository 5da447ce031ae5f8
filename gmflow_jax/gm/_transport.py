"""The Knothe-Rosenblatt transport between a mixture and the standard normal, one axis after the other."""

import math

import jax
import jax.numpy as jnp

from gmflow_jax._meshes import broadcast_like, reshard_like, rows_like, vary_alike
from gmflow_jax._reductions import fold_slices, log_softmax, sum_slices
from gmflow_jax.gm._moments import covariance_of_means, mean_of_component
from gmflow_jax.gm._quantile import MAX_ITERATIONS, from_normal, guess_quantile, to_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture, check_normalised, promote_mixture

# Lower bound of the std where all components coincide, so that 1 / std^2 stays finite.
_MIN_STD = 1e-12
# Entries of an eigenvector that differ by less than this relative amount count as equally large, so that
# rounding does not determine the sign.
_TIE = 1e-5


def to_standard_normal(
    q: GaussianMixture | Gaussian, x: jax.Array, rotation: jax.Array | None = None
) -> jax.Array:
    """Map x ~ q to z ~ N(0, I) by the Knothe-Rosenblatt transport.

    Along each axis in turn, z_i = Phi^-1(F_i(x_i)), where F_i is the CDF of q along axis i given the
    coordinates along the previous axes.

    Args:
      q: mixture over [*batch, D].
      x: [*batch, D].
      rotation: [D, D], or with the batch's axes before (each of size 1 or the batch's size). Its columns
        are the axes in order. None means the eigenvectors of the covariance averaged over each sample (all
        batch axes but the first), by decreasing eigenvalue, with the largest entry of each positive.

    Returns:
      z, [*batch, D], in axis coordinates: z_i belongs to column i of the rotation. Nothing is clipped: z is
      finite unless the squared distance to the nearest component, in standard deviations, overflows.

    Raises:
      ValueError: if shapes do not fit, or log_weights are not normalised.

    Source:
      GMFlow (arXiv 2504.05304), appendix A.3.
    """
    q, x, axes = _prepare(q, x, rotation, "x")
    deltas, _ = _in_stds(q, _along_axes(x[..., None, :] - q.means, axes))

    log_weights, z = jnp.moveaxis(q.log_weights, -1, 0), []
    for delta in deltas:
        z.append(to_normal(jnp.zeros_like(delta[0]), -delta, log_weights))
        log_weights = _condition(log_weights, delta)
    return jnp.stack(z, axis=-1)


def from_standard_normal(
    q: GaussianMixture | Gaussian, z: jax.Array, rotation: jax.Array | None = None
) -> jax.Array:
    """Map z ~ N(0, I) to x ~ q, the inverse of `to_standard_normal`.

    Uses Halley's method with bisection as a fallback, so it converges for any mixture. Gradients come from
    the implicit function theorem.

    Args:
      q: mixture over [*batch, D].
      z: [*batch, D], in axis coordinates.
      rotation: as in `to_standard_normal`.

    Returns:
      x, [*batch, D].

    Raises:
      ValueError: if shapes do not fit, or log_weights are not normalised.
    """
    q, z, axes = _prepare(q, z, rotation, "z")
    q = rows_like(q, z)
    likely = mean_of_component(q, jnp.argmax(q.log_weights, axis=-1))
    z = broadcast_like(z, likely)
    q, z, axes, likely = vary_alike((q, z, axes, likely))

    def solve(x, stage):
        return reshard_like(_transport(q, z, axes, x, *stage), x), None

    # Roughly first, then to full precision relative to the mean of the nearest component: for narrow
    # components, coordinates relative to a distant mean would not resolve the position within the component.
    stages = jnp.array([True, False]), jnp.array([2, MAX_ITERATIONS], jnp.int32)
    return jax.lax.scan(solve, likely, stages)[0]


def _transport(
    q: GaussianMixture,
    z: jax.Array,
    rotation: jax.Array,
    start: jax.Array,
    first: jax.Array,
    max_iterations: jax.Array,
) -> jax.Array:
    """`from_standard_normal` in displacements from the mean of the component that is nearest to a point.

    Args:
      q: mixture over [*batch, D].
      z: [*batch, D].
      rotation: rank of `*batch` and two more axes.
      start: the point, [*batch, D], which is also the first guess of the result.
      first: whether to guess anew instead.
      max_iterations: passed to `from_normal`.

    Returns:
      x, [*batch, D].
    """
    center = mean_of_component(q, _nearest(q, jax.lax.stop_gradient(start)))
    offsets, std = _in_stds(q, _along_axes(q.means - center[..., None, :], rotation))
    guesses = jax.lax.stop_gradient(_along_axes((start - center)[..., None, :], rotation)[:, 0] / std[None])

    def solve(log_weights, axis):
        z, offset, guess = axis
        fixed = jax.lax.stop_gradient((z, offset, log_weights))
        begin = jax.lax.cond(
            first, lambda: reshard_like(guess_quantile(*fixed), z), lambda: reshard_like(guess, z)
        )
        y = from_normal(z, offset, log_weights, begin, max_iterations)
        return reshard_like(_condition(log_weights, y[None] - offset), log_weights), y

    # A loop, so that XLA compiles the equation of an axis once.
    axes = jnp.moveaxis(z, -1, 0), offsets, guesses
    _, y = jax.lax.scan(solve, jnp.moveaxis(q.log_weights, -1, 0), axes)
    moved = jnp.moveaxis(y, 0, -1) * std[..., None]
    back = _along_axes(moved[..., None, :], jnp.swapaxes(rotation, -1, -2))
    return center + jnp.moveaxis(back[:, 0], 0, -1)


def _nearest(q: GaussianMixture, x: jax.Array) -> jax.Array:
    delta = x[..., None, :] - q.means
    distance = sum_slices(lambda i: jnp.square(delta[..., i]), delta.shape[-1], axis=-1)
    return jnp.argmin(distance, axis=-1)


def _prepare(
    q: GaussianMixture | Gaussian, point: jax.Array, rotation: jax.Array | None, name: str
) -> tuple[GaussianMixture, jax.Array, jax.Array]:
    if rotation is None:
        q, point = promote_mixture(q, point)
    else:
        q, point, rotation = promote_mixture(q, point, rotation)
    check_normalised(q)
    batch, dim = q.means.shape[:-2], q.means.shape[-1]
    if point.shape != (*batch, dim):
        raise ValueError(
            f"{name} has shape {point.shape}, but the mixture is over {(*batch, dim)}: both must have the "
            "same batch axes and channels. For several points use jax.vmap."
        )
    if rotation is None:
        return q, point, _default_rotation(q)
    lead = rotation.shape[:-2]
    fits = not lead or (
        len(lead) == len(batch) and all(n in (1, m) for n, m in zip(lead, batch, strict=True))
    )
    if rotation.shape[-2:] != (dim, dim) or not fits:
        raise ValueError(
            f"rotation has shape {rotation.shape}, but for a mixture over {(*batch, dim)} it must be "
            f"({dim}, {dim}), or have {len(batch)} axes before these, each of size 1 or the batch's size."
        )
    return q, point, rotation.reshape((1,) * (len(batch) - len(lead)) + rotation.shape)


def _default_rotation(q: GaussianMixture) -> jax.Array:
    """Compute the principal axes of each sample.

    The components' own isotropic variance does not change the eigenvectors, so it is left out.
    """
    # The barriers keep XLA from rounding this differently in different programs. Where eigenvalues are equal
    # up to rounding, the transport and its inverse must find the same axes.
    cov = covariance_of_means(jax.lax.optimization_barrier(q))
    batch = cov.shape[:-2]
    if len(batch) > 1:
        # A matrix product, since XLA's reduction over these axes takes several times as long on CPUs.
        shares = jnp.full_like(cov[..., 0, 0], 1 / math.prod(batch[1:]))
        cov = jnp.einsum("b...,b...ij->bij", shares, cov, precision="highest")
        cov = jnp.expand_dims(cov, tuple(range(1, len(batch))))
    cov = (cov + jnp.swapaxes(cov, -1, -2)) / 2  # between the barriers, not by eigh
    return principal_axes(jax.lax.optimization_barrier(cov))


def _along_axes(deltas: jax.Array, rotation: jax.Array) -> jax.Array:
    """Compute coordinates of `deltas`, [*batch, K, D], along the columns of rotation, as [D, K, *batch].

    Where the pixels of a sample share their axes, this is one matrix product per sample. Sums written slice
    by slice would be slower here: the coordinates are used many times, and XLA would recompute the sums for
    each use.
    """
    *batch, size, dim = deltas.shape
    if rotation.shape[1:-2] != (1,) * len(batch[1:]):
        rotated = jnp.einsum("...kj,...ji->...ki", deltas, rotation, precision="highest")
        return jnp.moveaxis(rotated, (-1, -2), (0, 1))
    samples, pixels = batch[:1], batch[1:]
    # Components before pixels, so that the result needs no transposition of small pieces.
    rows = jnp.moveaxis(deltas, -2, len(samples)).reshape(*samples, math.prod(pixels) * size, dim)
    rotation = rotation.reshape(*rotation.shape[:-2][:1], dim, dim)
    columns = jnp.einsum("...nj,...ji->i...n", rows, rotation, precision="highest")
    return jnp.moveaxis(columns.reshape(dim, *samples, size, *pixels), len(batch[:1]) + 1, 1)


def _in_stds(q: GaussianMixture, offsets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divide offsets, [D, K, *batch], by the std; return them and the std, [*batch].

    The std is raised to the smallest distance that the dtype resolves, so that point masses remain distinct.
    The exponential and the division come last on purpose: if the last operations were cheap, XLA would
    recompute them for every use of the results.
    """
    sizes = jnp.abs(jax.lax.collapse(offsets, 0, 2))
    extremes = (jnp.maximum, jnp.minimum)
    largest, smallest = (fold_slices(f, sizes.__getitem__, len(sizes), axis=0)[0] for f in extremes)
    floor = jax.lax.stop_gradient(jnp.maximum(jnp.finfo(offsets.dtype).eps * (largest - smallest), _MIN_STD))
    std = jnp.exp(jnp.maximum(jnp.broadcast_to(q.log_std, floor.shape), jnp.log(floor)))
    return offsets / std[None, None], std


def _condition(log_weights: jax.Array, delta: jax.Array) -> jax.Array:
    """Condition the log-weights, [K, *batch], on one coordinate.

    delta, [K, *batch], is the coordinate's distance from each component's mean, in standard deviations.
    """
    return log_softmax(log_weights - 0.5 * jnp.square(delta), axis=0)


@jax.custom_jvp
def principal_axes(cov: jax.Array) -> jax.Array:
    """Return the eigenvectors of [..., D, D] as columns, by decreasing eigenvalue, largest entry positive."""
    _, vectors = jnp.linalg.eigh(-cov, symmetrize_input=False)
    size = jnp.abs(vectors)
    largest = jnp.argmax(size >= (1 - _TIE) * jnp.max(size, axis=-2, keepdims=True), axis=-2, keepdims=True)
    return vectors * jnp.sign(jnp.take_along_axis(vectors, largest, axis=-2))


@principal_axes.defjvp
def _principal_axes_jvp(primals, tangents):
    # JAX's rule divides by differences of eigenvalues. Where these are 0, the axes are arbitrary; this rule
    # gives them gradient 0.
    (cov,), (dcov,) = primals, tangents
    axes = principal_axes(cov)
    inner = [jnp.einsum("...ji,...jk,...kl->...il", axes, c, axes, precision="highest") for c in (cov, dcov)]
    values = jnp.diagonal(inner[0], axis1=-2, axis2=-1)
    gap = values[..., None, :] - values[..., :, None]
    distinct = jnp.abs(gap) > jnp.finfo(cov.dtype).eps * jnp.abs(values).max(-1)[..., None, None]
    turn = jnp.where(distinct, inner[1] / jnp.where(distinct, gap, 1.0), 0.0)
    return axes, jnp.einsum("...ij,...jk->...ik", axes, turn, precision="highest")
