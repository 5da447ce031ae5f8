"""Training: state, random draws, step, EMA, optimiser, checkpoints, metrics and the training loop.

The functions are pure and take no configuration object. The caller applies jit, pmap and shardings.
"""

from gmflow_jax.training._checkpoint import Checkpointer
from gmflow_jax.training._distill import (
    PolicyExample,
    draw_policy_example,
    make_distillation_step,
    make_policy_loss,
)
from gmflow_jax.training._ema import constant_decay, karras_decay, ramp_up_decay, update_ema, warm_up_decay
from gmflow_jax.training._example import MIN_TRAINING_TIME, TransitionExample, draw_example
from gmflow_jax.training._loop import Hook, fit
from gmflow_jax.training._loss import make_loss
from gmflow_jax.training._metrics import MetricWriter, average_metrics
from gmflow_jax.training._optimizer import make_optimizer, warm_up_cosine_schedule, warm_up_schedule
from gmflow_jax.training._post_hoc import (
    combine,
    post_hoc_residual,
    post_hoc_weights,
    power_gamma,
    power_std,
    update_power_averages,
)
from gmflow_jax.training._snapshots import Snapshots
from gmflow_jax.training._state import TrainState, init_state
from gmflow_jax.training._step import make_train_step
from gmflow_jax.training._teacher import make_teacher

__all__ = [
    "MIN_TRAINING_TIME", "Checkpointer", "Hook", "MetricWriter", "PolicyExample", "Snapshots",
    "TrainState", "TransitionExample", "average_metrics", "combine", "constant_decay", "draw_example",
    "draw_policy_example", "fit", "init_state", "karras_decay", "make_distillation_step",
    "make_loss", "make_optimizer", "make_policy_loss", "make_teacher", "make_train_step",
    "post_hoc_residual", "post_hoc_weights", "power_gamma", "power_std", "ramp_up_decay",
    "update_ema", "update_power_averages", "warm_up_cosine_schedule", "warm_up_decay",
    "warm_up_schedule",
]
