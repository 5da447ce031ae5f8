"""The parts that solvers share: the (init, step) pair, their arguments, random draws, and predictions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax._meshes import leading_like, rows_like
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, normalised
from gmflow_jax.guidance import Guided, Observed
from gmflow_jax.guidance._observe import mixture_of

Denoiser = Callable[[jax.Array, jax.Array], GaussianMixture | Guided]
_State = TypeVar("_State")


class Solver(NamedTuple):
    """A solver as two pure functions, for use in any loop. `solvers.sample` is such a loop.

    Attributes:
      init: (denoise, x_init) -> state, a pytree of fixed structure. `denoise` is only traced for shapes, not
        evaluated.
      step: (key, denoise, x_t, t, s, state) -> (x_s, state), one step from time t to s (scalars or [B]).
        `key` is a PRNG key, one key per sample ([B] keys), or the `Draws` to use. Deterministic solvers
        ignore it, so it may be None. For s = t nothing changes. s > t is a step to noise, which `euler`,
        `heun`, `ab2` and `dpmpp_2m` make.

    Example:
      A network may need both times of a step, such as the average velocity u(x, t, s) of MeanFlow (arXiv
      2505.13447). It is a solver of its own, and `sample` takes None as its denoiser. If times are repeated,
      such a step has to handle s = t itself:

      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, solvers
      >>> def mean_flow(average_velocity):
      ...     def step(key, denoise, x_t, t, s, state):
      ...         length = jnp.reshape(t - s, (-1,) + (1,) * (x_t.ndim - 1))  # t and s are scalars or [B]
      ...         return x_t - length * average_velocity(x_t, t, s), state
      ...     return solvers.Solver(lambda denoise, x_init: (), step)
      >>> solver = mean_flow(lambda x_t, t, s: x_t / t)  # of data that is 0
      >>> solvers.sample(None, None, jnp.ones((1, 2)), solver, flow.time_grid(2)).tolist()
      [[0.0, 0.0]]
    """

    init: Callable[[Any, jax.Array], Any]
    step: Callable[..., tuple[jax.Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of one step. Pass them instead of a key to repeat a known trajectory.

    Attributes:
      component: index of the mixture component from which x_0 is drawn, int [*batch].
      mixture_normal: standard normal for the draw of x_0, [*batch, D].
      step_noise: standard normal for the step from x_t to x_s, [*batch, D].

    Fields that a solver does not use may be None. For `solvers.sample`, each field has a leading axis of size
    num_steps.
    """

    component: jax.Array | None = None
    mixture_normal: jax.Array | None = None
    step_noise: jax.Array | None = None


# The source of a step's random numbers. None is allowed for deterministic solvers.
Key = jax.Array | Draws | None


def predict(denoise: Denoiser, x_t: jax.Array, t: jax.Array) -> GaussianMixture | Guided:
    """Call a denoiser; return its prediction with normalised weights, in one dtype.

    Raises:
      ValueError: if log_weights are known and are not normalised.
    """
    prediction = rows_like(promote(denoise(x_t, t))[0], x_t)
    if isinstance(prediction, (Guided, Observed)):
        return prediction
    # The shapes of a mixture are not checked: plain solvers use only its mean, and its log_std may lack axes,
    # such as that of a denoiser that is vmapped over samples.
    return normalised(as_mixture(prediction) if isinstance(prediction, Gaussian) else prediction)


def data_mean(denoise: Denoiser, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Call a denoiser; return the mean of x_0. Solvers for plain flow models use nothing else."""
    return weighted_mean(mixture_of(predict(denoise, x_t, t)))


def step_arguments(
    x_t: jax.Array, x_0: jax.Array, t: ArrayLike, s: ArrayLike, state: _State = ()
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, _State]:
    """Promote a step's arguments to one dtype and reshape times so that they broadcast with x_t.

    Args:
      x_t: state at t, [B, ..., D].
      x_0: predicted mean of x_0, [B, ..., D].
      t: a scalar or [B].
      s: a scalar or [B].
      state: pytree of arrays like x_t, and of values per sample ([B]), which are reshaped like times.

    Returns:
      The five arguments. Times and values per sample are scalars, or have the shape [B, 1, ..., 1] at the
      rank of x_t.
    """
    state, x_t, x_0, t, s = promote(state, x_t, x_0, t, s)

    def per_channel(value: jax.Array, name: str = "state") -> jax.Array:
        return append_axes(expand_time(value, x_t.shape[:-1], name), 1)

    state = jax.tree.map(lambda leaf: leaf if leaf.ndim == x_t.ndim else per_channel(leaf), state)
    return x_t, x_0, per_channel(t, "t"), per_channel(s, "s"), state


def per_sample(value: ArrayLike, x: jax.Array) -> jax.Array:
    """Broadcast a time to one value per entry of x's leading batch axis.

    Times are stored in this shape in a solver's state, whose shapes must not change between steps.

    Args:
      value: a scalar, [B] or [B, 1, ..., 1].
      x: [B, ..., D], or [D].

    Returns:
      [B], or a scalar if x has no batch axes.
    """
    value = jnp.asarray(value, x.dtype)
    return leading_like(value.reshape(value.shape[:1]), x)


def per_sample_keys(key: jax.Array | None, x: jax.Array) -> jax.Array:
    """Return fold_in(key, i) for each sample i of the leading axis.

    A sample then depends neither on the size of its batch nor on the distribution over devices. [B] keys are
    returned as they are, and so is the one key of an x without batch axes.

    Args:
      key: a PRNG key or [B] keys, typed or raw.
      x: [B, ..., D].

    Returns:
      [B] typed keys, or one if x has no batch axes.

    Raises:
      ValueError: if key is None or its shape does not fit x.
    """
    if key is None:
        raise ValueError("This solver draws random numbers: pass a PRNG key or Draws, not None.")
    typed = _is_key(key)
    keys: jax.Array = key if typed else jax.random.wrap_key_data(key)
    if keys.ndim == 0 and x.ndim > 1:
        return jax.vmap(jax.random.fold_in, (None, 0))(keys, leading_like(jnp.arange(x.shape[0]), x))
    if keys.shape != x.shape[: keys.ndim] or keys.ndim > 1:
        raise ValueError(
            f"Keys of shape {keys.shape} do not fit samples of shape {x.shape}: pass one key, or one "
            "for each entry of the leading axis."
        )
    return _split_keys(keys, x) if keys.ndim else keys


def _is_key(key: jax.Array) -> bool:
    """Return whether a key is typed; raise ValueError if it is neither that nor raw."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        given = f"of type {type(key).__name__}" if dtype is None else f"an array of {dtype}"
        raise ValueError(f"key is {given}, but must be a PRNG key, such as jax.random.key(0), or Draws.")
    return typed


def _split_keys(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Split [B] keys over devices as x is."""
    data = jax.random.key_data(keys)
    zeros = leading_like(jnp.zeros((), data.dtype), x)
    data = data + zeros.reshape(-1, *(1,) * (data.ndim - 1))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))


def fold_in_keys(keys: jax.Array, data: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in` for one key or [B] keys."""
    if keys.ndim == 0:
        return jax.random.fold_in(keys, data)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal_like(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Draw standard normals of x's shape and dtype, with one key per sample."""
    if keys.ndim == 0:
        return jax.random.normal(keys, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


def step_noise(key: Key, x: jax.Array) -> jax.Array:
    """Draw the noise of a step, or take it from given draws."""
    if isinstance(key, Draws):
        return _given(key, "step_noise", x.shape)
    return normal_like(per_sample_keys(key, x), x)


def component_draw(key: Key, q: GaussianMixture, x: jax.Array) -> jax.Array:
    """Draw the mixture component from which a GM-SDE step samples x_0, or take it from given draws.

    Args:
      key: a PRNG key, [B] keys, or `Draws`.
      q: mixture over x_0, log_weights [*batch, K].
      x: state, [*batch, D].

    Returns:
      Indices of components, [*batch].
    """
    if isinstance(key, Draws):
        return _given(key, "component", x.shape[:-1])
    keys = fold_in_keys(per_sample_keys(key, x), 0)
    if not keys.ndim:
        return jax.random.categorical(keys, q.log_weights)
    return jax.vmap(jax.random.categorical)(_split_keys(keys, q.log_weights), q.log_weights)


def normal_draws(key: Key, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw the two standard normals of a GM-SDE step, for x_0 and for x_s, or take them from given draws."""
    if isinstance(key, Draws):
        return _given(key, "mixture_normal", x.shape), _given(key, "step_noise", x.shape)
    keys = per_sample_keys(key, x)
    return normal_like(fold_in_keys(keys, 1), x), normal_like(fold_in_keys(keys, 2), x)


def _given(draws: Draws, name: str, shape: tuple[int, ...]) -> jax.Array:
    value = getattr(draws, name)
    if value is None or value.shape != shape:
        found = "missing" if value is None else f"of shape {value.shape}"
        raise ValueError(f"Draws.{name} is {found}, but this step needs it with shape {shape}.")
    return value
