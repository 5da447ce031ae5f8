"""The state that training carries from one step to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. The random draws depend on the key and `step` only.

    Attributes:
      params: parameters, a nested dict of arrays.
      ema_params: their average, of the same structure.
      opt_state: state of the optimiser.
      step: int32 scalar, number of steps made.
      num_skipped: int32 scalar, number of steps that changed nothing because the loss or a gradient was not
        finite.
      power_averages: further averages of the parameters, see `post_hoc_weights`.
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
    """Make the state before the first step.

    It can be traced, so `jax.eval_shape` and jit with `out_shardings` work. A jitted step that donates its
    state takes over the arrays of `params`: keep a copy if they are needed elsewhere.

    Args:
      params: initial parameters.
      optimizer: the optimiser.
      ema_params: initial average; None starts from the parameters.
      num_power_averages: number of further averages, which start from the parameters.

    Returns:
      The state.
    """

    def copy(tree):  # a buffer that the state holds twice cannot be donated
        return jax.tree.map(jnp.copy, tree)

    return TrainState(
        params=params,
        ema_params=copy(params if ema_params is None else ema_params),
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        num_skipped=jnp.zeros((), jnp.int32),
        power_averages=tuple(copy(params) for _ in range(num_power_averages)),
    )
