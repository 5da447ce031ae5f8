"""What training carries from one step to the next."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; the randomness is a function of the seed and `step`.

    `params` and `ema_params` are nested dicts of arrays of the same structure, `opt_state` is
    optax's. `step` (int32 scalar) counts all steps made, `num_skipped` (int32 scalar) those among
    them that changed nothing because the loss or a gradient was not finite.
    """

    params: Any
    ema_params: Any
    opt_state: Any
    step: jax.Array
    num_skipped: jax.Array


def init_state(
    params: Any, optimizer: optax.GradientTransformation, ema_params: Any = None
) -> TrainState:
    """Returns the state before the first step; the EMA starts from the parameters.

    A jitted step that donates its state takes over the arrays of `params`: keep a copy if they
    are needed elsewhere. Traceable, so that `jax.eval_shape` and jit with `out_shardings` work.
    """
    return TrainState(
        params=params,
        # A copy: one buffer in two places of the state could not be donated.
        ema_params=jax.tree.map(jnp.copy, params if ema_params is None else ema_params),
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        num_skipped=jnp.zeros((), jnp.int32),
    )
