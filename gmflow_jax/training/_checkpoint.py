"""Checkpoints of the training state."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gmflow_jax.training._snapshots import Snapshots
from gmflow_jax.training._state import TrainState

_ARRAY_ITEMS = {"params": "params", "ema": "ema_params", "opt_state": "opt_state"}


class Checkpointer(Snapshots):
    """Snapshots of training states.

    Their items are `params`, `ema`, `opt_state`, `meta`, and `power_averages` if the state has any.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_every: int | None = None):
        """Open a folder of checkpoints.

        Args:
          folder: the folder, as for `Snapshots`.
          keep: number of checkpoints that are kept, the newest ones.
          keep_every: checkpoints of multiples of this number of steps are kept too.

        Raises:
          ValueError: as `Snapshots`.
        """
        super().__init__(folder, keep, keep_every)

    def save_state(self, state: TrainState, meta: Mapping[str, Any] | None = None) -> None:
        """Save `state` under its number of steps.

        `step` and `num_skipped` are added to `meta`. Nothing is done if the step is already saved.

        Args:
          state: the training state.
          meta: values that can be written as JSON, for instance the configuration.
        """
        step = int(state.step)
        meta = {**(meta or {}), "step": step, "num_skipped": int(state.num_skipped)}
        self.save(step, _trees(state), meta)

    def restore_latest(self, abstract_state: TrainState) -> tuple[TrainState, dict] | None:
        """Read the newest state.

        Args:
          abstract_state: a target as for `restore`: a state, or `jax.eval_shape` of a function that makes
            one.

        Returns:
          The state and its meta, or None if there is no checkpoint yet.
        """
        if self.latest_step() is None:
            return None
        trees = self.restore(**_trees(abstract_state))
        meta = trees.pop("meta")
        counters = {
            name: jax.device_put(jnp.int32(meta[name]), getattr(abstract_state, name).sharding)
            for name in ("step", "num_skipped")
        }
        fields = {field: trees[item] for item, field in _ARRAY_ITEMS.items()}
        averages = trees.get("power_averages", ())
        return TrainState(**fields, **counters, power_averages=tuple(averages)), dict(meta)

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> Any:
        """Read the averaged parameters alone, for sampling.

        Args:
          abstract_params: a target as for `restore`.
          step: number of steps; None is the newest checkpoint.

        Returns:
          The averaged parameters.
        """
        return self.restore(step, ema=abstract_params)["ema"]


def _trees(state: TrainState) -> dict[str, Any]:
    trees = {item: getattr(state, field) for item, field in _ARRAY_ITEMS.items()}
    # Orbax cannot save an empty tree.
    return trees | ({"power_averages": state.power_averages} if state.power_averages else {})
