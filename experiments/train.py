"""Train a run from a configuration, resume it, and report on it when it is done.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
  python -m experiments.train --config=... --workdir=... --config.num_steps=100

The workdir receives config.json, checkpoints/, metrics.csv, TensorBoard events, and at the end
report.json, report.png and a printed table. The same command again resumes an unfinished run.
"""

import pathlib

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import cli, runs
from experiments.report import report
from experiments.tasks import make_task
from gmflow_jax import training

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. experiments/configs/digits.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if it does not exist.")
_REPORT = flags.DEFINE_bool("report", True, "Whether to evaluate the run when it is done.")


def main() -> None:
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise cli.UserError(
            "--config and --workdir are needed, for example --config=experiments/configs/digits.py "
            "--workdir=runs/digits."
        )
    config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
    with cli.user_input():
        task = make_task(config.task)
        apply, shapes = runs.abstract_network(config)
        optimizer = runs.make_optimizer(config)
        train_step = runs.make_train_step(config, apply, optimizer)
        batches = task.batches(config.batch_size, config.seed)
        workdir.mkdir(parents=True, exist_ok=True)
        runs.save_config(workdir, config)
    already_finished = _train(config, workdir, shapes, optimizer, train_step, batches)
    out = workdir / "report.json"
    if already_finished and out.exists():
        print(f"Its report is {out}; python -m experiments.evaluate --workdir={workdir} makes it anew.")
    elif _REPORT.value:
        report([str(workdir)], out)


def _train(config, workdir, shapes, optimizer, train_step, batches) -> bool:
    """Train from the newest checkpoint, if any, to the end; True if there was nothing left to do."""
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    print(f"{config.task}: {num_parameters:,} parameters, {config.num_steps:,} steps of {config.batch_size}")

    def init():
        return training.init_state(runs.init_params(config), optimizer)

    with training.Checkpointer(workdir / "checkpoints") as checkpointer:
        with cli.user_input():
            restored = checkpointer.restore_latest(jax.eval_shape(init))
        state = jax.jit(init)() if restored is None else restored[0]
        start = int(state.step)
        if start >= config.num_steps:
            print(f"The run in {workdir} is finished: {start:,} of {config.num_steps:,} steps are done.")
            return True
        if start:
            print(f"Resuming after {start:,} steps.")
        writer = training.MetricWriter(workdir, resume_step=start)
        state = training.fit(
            state,
            jax.jit(train_step, donate_argnums=0),
            batches,
            jax.random.key(config.seed),
            config.num_steps,
            writer=writer,
            checkpointer=checkpointer,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            global_batch_size=config.batch_size,
        )
        writer.close()
    if int(state.step) < config.num_steps:
        raise cli.UserError(
            f"Stopped after {int(state.step):,} of {config.num_steps:,} steps; a checkpoint was saved. "
            "The same command resumes."
        )
    return False


if __name__ == "__main__":
    cli.run(main)
