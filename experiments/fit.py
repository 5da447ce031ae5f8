"""Training a run in its folder, for the programs that do."""

import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from tqdm.auto import tqdm

from experiments import cli, runs
from experiments.tasks import make_task
from gmflow_jax import training


def fit_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, on_step: Callable[[], None] | None = None
) -> bool:
    """Train from the newest checkpoint in `workdir`, if any, to the end; True if nothing was left to do.

    `on_step` is called before each step, in place of the progress bar.
    """
    with cli.user_input():
        task = make_task(config.task)
        apply, shapes = runs.abstract_network(config)
        optimizer = runs.make_optimizer(config)
        train_step = runs.make_train_step(config, apply, optimizer)
        batches = task.batches(config.batch_size, config.seed)
        workdir.mkdir(parents=True, exist_ok=True)
        runs.save_config(workdir, config)
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    _say(f"{config.task}: {num_parameters:,} parameters, {config.num_steps:,} steps of {config.batch_size}")

    def init():
        return training.init_state(runs.init_params(config), optimizer)

    def batch_fn(step):
        if on_step is not None:
            on_step()
        return batches(step)

    with training.Checkpointer(workdir / "checkpoints") as checkpointer:
        with cli.user_input():
            restored = checkpointer.restore_latest(jax.eval_shape(init))
        state = jax.jit(init)() if restored is None else restored[0]
        start = int(state.step)
        if start >= config.num_steps:
            _say(f"The run in {workdir} is finished: {start:,} of {config.num_steps:,} steps are done.")
            return True
        if start:
            _say(f"Resuming after {start:,} steps.")
        writer = training.MetricWriter(workdir, resume_step=start)
        state = training.fit(
            state,
            jax.jit(train_step, donate_argnums=0),
            batch_fn,
            jax.random.key(config.seed),
            config.num_steps,
            writer=writer,
            checkpointer=checkpointer,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            global_batch_size=config.batch_size,
            progress=on_step is None,
        )
        writer.close()
    if int(state.step) < config.num_steps:
        raise cli.UserError(
            f"Stopped after {int(state.step):,} of {config.num_steps:,} steps; a checkpoint was saved. "
            "The same command resumes."
        )
    return False


def _say(text: str) -> None:
    """Print above a progress bar, should there be one."""
    tqdm.write(text)
