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
    them that changed nothing because the loss or a gradient was not finite. `power_averages` are
    further averages of the parameters, see `post_hoc_weights`.
    """

    params: Any
    ema_params: Any
    opt_state: Any
    step: jax.Array
    num_skipped: jax.Array
    power_averages: tuple[Any, ...] = ()


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema_params: Any = None,
    num_power_averages: int = 0,
) -> TrainState:
    """Returns the state before the first step; all averages start from the parameters.

    A jitted step that donates its state takes over the arrays of `params`: keep a copy if they
    are needed elsewhere. Traceable, so that `jax.eval_shape` and jit with `out_shardings` work.
    """

    def copy(tree):  # one buffer in two places of the state could not be donated
        return jax.tree.map(jnp.copy, tree)

    return TrainState(
        params=params,
        ema_params=copy(params if ema_params is None else ema_params),
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        num_skipped=jnp.zeros((), jnp.int32),
        power_averages=tuple(copy(params) for _ in range(num_power_averages)),
    )
