"""AdamW as the authors of GMFlow use it, and learning-rate schedules."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gmflow_jax._arguments import check_number


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.05,
    clip_norm: float | None = None,
    clip_begin_step: int = 0,
    eps: float = 1e-8,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Make AdamW with an optional clip of the global gradient norm.

    Parameters whose last name is 'bias' do not decay, all others do. Schedules and `clip_begin_step` count
    updates, so a skipped step does not advance them.

    Args:
      learning_rate: a number or a schedule.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled weight decay.
      clip_norm: gradients of a larger global norm are scaled to it; None does not clip.
      clip_begin_step: number of the first update (0-based) that is clipped.
      eps: term in the denominator.
      mu_dtype: dtype of the first moment, 'float32' or 'bfloat16', which halves its memory.

    Returns:
      The optimiser.

    Raises:
      ValueError: if a number is out of its range or `mu_dtype` is unknown.

    Source:
      The authors' released training configuration.
    """
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, "[0, inf)")
    check_number("b1", b1, "[0, 1)")
    check_number("b2", b2, "[0, 1)")
    check_number("weight_decay", weight_decay, "[0, inf)")
    check_number("eps", eps, "[0, inf)")
    check_number("clip_begin_step", clip_begin_step, "[0, inf)")
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(
            f"clip_norm is {clip_norm}, which is no norm to scale gradients to; give a positive norm, "
            "or None for no clip."
        )
    if mu_dtype not in ("float32", "bfloat16"):
        raise ValueError(f"mu_dtype is {mu_dtype!r}; give 'float32' or 'bfloat16'.")
    adamw = optax.adamw(
        learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=_decay_mask,
        mu_dtype=None if mu_dtype == "float32" else mu_dtype,
    )
    if clip_norm is None:
        return _with_standard_promotion(adamw)
    clip = optax.conditionally_transform(
        _clip_by_global_norm(clip_norm), lambda step, **_: jnp.asarray(step) >= clip_begin_step
    )
    return _with_standard_promotion(optax.chain(clip, adamw))


def warm_up_schedule(
    peak: float, warm_up_steps: int, start_ratio: float = 0.001
) -> optax.Schedule:
    """Make a learning rate that rises linearly and then stays constant.

    Args:
      peak: the rate after the warm-up.
      warm_up_steps: steps of the warm-up; 0 is none.
      start_ratio: rate at step 0, as a fraction of the peak.

    Returns:
      The schedule.

    Raises:
      ValueError: if a number is negative or not finite.
    """
    _check_steps(warm_up_steps)
    check_number("learning_rate", peak, "[0, inf)")
    check_number("start_ratio", start_ratio, "[0, inf)")
    if warm_up_steps == 0:
        return optax.constant_schedule(peak)
    return optax.linear_schedule(start_ratio * peak, peak, warm_up_steps)


def warm_up_cosine_schedule(
    peak: float,
    warm_up_steps: int,
    num_steps: int,
    start_ratio: float = 0.001,
    end_ratio: float = 0.0,
) -> optax.Schedule:
    """Make a learning rate that rises linearly and then falls along half a cosine.

    The authors do not use it. It serves short runs, which end before an average of the parameters helps.

    Args:
      peak: the rate after the warm-up.
      warm_up_steps: steps of the warm-up; 0 is none.
      num_steps: step at which the cosine ends.
      start_ratio: rate at step 0, as a fraction of the peak.
      end_ratio: rate at step `num_steps`, as a fraction of the peak.

    Returns:
      The schedule.

    Raises:
      ValueError: if a number is negative or not finite, or `num_steps` is not above `warm_up_steps`.
    """
    _check_steps(warm_up_steps)
    check_number("end_ratio", end_ratio, "[0, inf)")
    if num_steps <= warm_up_steps:
        raise ValueError(
            f"A run of {num_steps} steps has no room for a cosine after {warm_up_steps} steps of "
            "warm-up; give more steps or a shorter warm-up."
        )
    warm_up = warm_up_schedule(peak, warm_up_steps, start_ratio)
    cosine = optax.cosine_decay_schedule(peak, num_steps - warm_up_steps, alpha=end_ratio)
    joined = optax.join_schedules([warm_up, cosine], [warm_up_steps])
    # optax's cosine mixes an integer count with floats, which strict dtype promotion forbids.
    return lambda count: joined(jnp.asarray(count).astype(jnp.float32))


def _decay_mask(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) != "bias", params
    )


def _clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    def clip(updates, params=None):
        del params
        # torch adds 1e-6 and optax's own clip does not; the golden updates show the difference.
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clip)


def _with_standard_promotion(optimizer: optax.GradientTransformation):
    # optax's Adam raises a float to an integer count, which strict dtype promotion forbids.
    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _check_steps(warm_up_steps: int) -> None:
    if warm_up_steps < 0:
        raise ValueError(
            f"warm_up_steps is {warm_up_steps}, but a number of steps cannot be negative; "
            "give 0 for no warm-up."
        )
