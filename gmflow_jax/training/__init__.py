"""Training: state, draws, step, EMA, optimiser, checkpoints, metrics and the loop around them.

Pure functions without a configuration object; the caller owns jit, pmap and shardings.
"""

from gmflow_jax.training._checkpoint import Checkpointer as Checkpointer
from gmflow_jax.training._checkpoint import Snapshots as Snapshots
from gmflow_jax.training._ema import constant_decay as constant_decay
from gmflow_jax.training._ema import karras_decay as karras_decay
from gmflow_jax.training._ema import ramp_up_decay as ramp_up_decay
from gmflow_jax.training._ema import update_ema as update_ema
from gmflow_jax.training._ema import warm_up_decay as warm_up_decay
from gmflow_jax.training._example import MIN_TRAINING_TIME as MIN_TRAINING_TIME
from gmflow_jax.training._example import TransitionExample as TransitionExample
from gmflow_jax.training._example import draw_example as draw_example
from gmflow_jax.training._example import make_example as make_example
from gmflow_jax.training._loop import Hook as Hook
from gmflow_jax.training._loop import fit as fit
from gmflow_jax.training._loss import make_loss as make_loss
from gmflow_jax.training._metrics import MetricWriter as MetricWriter
from gmflow_jax.training._metrics import average_metrics as average_metrics
from gmflow_jax.training._optimizer import make_optimizer as make_optimizer
from gmflow_jax.training._optimizer import warm_up_cosine_schedule as warm_up_cosine_schedule
from gmflow_jax.training._optimizer import warm_up_schedule as warm_up_schedule
from gmflow_jax.training._post_hoc import combine as combine
from gmflow_jax.training._post_hoc import post_hoc_residual as post_hoc_residual
from gmflow_jax.training._post_hoc import post_hoc_weights as post_hoc_weights
from gmflow_jax.training._post_hoc import power_gamma as power_gamma
from gmflow_jax.training._post_hoc import power_std as power_std
from gmflow_jax.training._post_hoc import update_power_averages as update_power_averages
from gmflow_jax.training._state import TrainState as TrainState
from gmflow_jax.training._state import init_state as init_state
from gmflow_jax.training._step import make_train_step as make_train_step
