"""What every solver is made of: the (init, step) pair, random draws, and access to predictions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._types import GaussianMixture
from gmflow_jax.guidance import Guided

Denoiser = Callable[[jax.Array, jax.Array], GaussianMixture | Guided]
_State = TypeVar("_State")


class Solver(NamedTuple):
    """A solver as two pure functions, to be embedded in any loop; `solvers.sample` is one.

    init(denoise, x_init) -> state
        A pytree of fixed structure. `denoise` is only traced for shapes, not evaluated.
    step(key, denoise, x_t, t, s, state) -> (x_s, state)
        One step from time t to s < t (scalars or [B]). `key` is a PRNG key, one key for each sample
        ([B] keys), or the `Draws` to use; deterministic solvers ignore it (None will do).
    """

    init: Callable[[Denoiser, jax.Array], Any]
    step: Callable[..., tuple[jax.Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of one step, given instead of a key to repeat a known trajectory.

    Attributes:
      component: index of the mixture component drawn for x_0, int [*batch].
      mixture_normal: standard normal of the draw of x_0, [*batch, D].
      step_noise: standard normal of the step from x_t to x_s, [*batch, D].

    Fields that a solver does not use may be None. `solvers.sample` takes them with a leading axis of
    num_steps.
    """

    component: jax.Array | None = None
    mixture_normal: jax.Array | None = None
    step_noise: jax.Array | None = None


Key = jax.Array | Draws | None  # what a step draws its random numbers from


def mixture_of(prediction: GaussianMixture | Guided) -> GaussianMixture:
    """The mixture over x_0 to sample from: the guided one if there is guidance."""
    return prediction.mixture if isinstance(prediction, Guided) else prediction


def data_mean(prediction: GaussianMixture | Guided) -> jax.Array:
    """The predicted mean of x_0, all that a solver for plain flow models uses."""
    return weighted_mean(mixture_of(prediction))


def step_arguments(
    x_t: jax.Array, x_0: jax.Array, t: ArrayLike, s: ArrayLike, state: _State = ()
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, _State]:
    """Promote a step's arguments to one dtype, and give its times the rank of x_t, to broadcast with it.

    The same goes for those arrays in `state` that hold one value for each sample.
    """
    state, x_t, x_0, t, s = promote(state, x_t, x_0, t, s)

    def per_channel(value: jax.Array, name: str = "state") -> jax.Array:
        return append_axes(expand_time(value, x_t.shape[:-1], name), 1)

    state = jax.tree.map(lambda leaf: leaf if leaf.ndim == x_t.ndim else per_channel(leaf), state)
    return x_t, x_0, per_channel(t, "t"), per_channel(s, "s"), state


def per_sample(value: ArrayLike, x: jax.Array) -> jax.Array:
    """A time as one value for each entry of x's leading batch axis, so that a state keeps its shape."""
    value = jnp.asarray(value, x.dtype)
    return jnp.broadcast_to(value.reshape(value.shape[:1]), x.shape[:-1][:1])


def per_sample_keys(key: jax.Array | None, x: jax.Array) -> jax.Array:
    """fold_in(key, i) for sample i of the leading axis; [B] keys pass; [D] alone keeps its one key.

    So a sample does not depend on the size of its batch or on how devices share it.
    """
    if key is None:
        raise ValueError("This solver draws random numbers: pass a PRNG key or Draws, not None.")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    keys: jax.Array = key if typed else jax.random.wrap_key_data(key)
    if keys.ndim == 0 and x.ndim > 1:
        return jax.vmap(jax.random.fold_in, (None, 0))(keys, jnp.arange(x.shape[0]))
    if keys.shape != x.shape[: keys.ndim] or keys.ndim > 1:
        raise ValueError(
            f"Keys of shape {keys.shape} do not fit samples of shape {x.shape}: pass one key, or one "
            "for each entry of the leading axis."
        )
    return keys


def fold_in_keys(keys: jax.Array, data: int | jax.Array) -> jax.Array:
    """`jax.random.fold_in` for one key or [B] keys."""
    if keys.ndim == 0:
        return jax.random.fold_in(keys, data)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal_like(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Standard normal of x's shape and dtype, drawn sample by sample."""
    if keys.ndim == 0:
        return jax.random.normal(keys, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


def step_noise(key: Key, x: jax.Array) -> jax.Array:
    """The noise of a step from a key or from given draws."""
    if isinstance(key, Draws):
        return _given(key, "step_noise", x.shape)
    return normal_like(per_sample_keys(key, x), x)


def component_draw(key: Key, q: GaussianMixture, x: jax.Array) -> jax.Array:
    """The index of the component from which a GM-SDE step draws x_0."""
    if isinstance(key, Draws):
        return _given(key, "component", x.shape[:-1])
    keys = fold_in_keys(per_sample_keys(key, x), 0)
    categorical = jax.random.categorical
    return (jax.vmap(categorical) if keys.ndim else categorical)(keys, q.log_weights)


def normal_draws(key: Key, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two standard normals of a GM-SDE step: that of x_0, and the noise of the step."""
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
