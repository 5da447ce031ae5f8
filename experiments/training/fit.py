"""Training of a run in its folder."""

import contextlib
import enum
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from tqdm.auto import tqdm

from experiments.common import cli, cluster, files, lock
from experiments.runs import networks, teachers
from experiments.tasks.make import make_task
from experiments.training import checks, costs, distillation, hooks, steps
from gmflow_jax import data, sharding, training
from gmflow_jax._files import bucket_problem


class Outcome(enum.Enum):
    """How `fit_run` ended: trained to the end, found nothing to do, or stopped by a signal."""

    DONE = enum.auto()
    ALREADY_DONE = enum.auto()
    STOPPED = enum.auto()


class _Plan(NamedTuple):
    """The parts of a run whose configuration has been checked."""

    task: Any
    score: hooks.Score | None
    parallelism: sharding.Parallelism
    distilled: distillation.Distillation | None
    init: Callable[..., training.TrainState]
    train_step: Callable
    batch_fn: Callable[[int], dict[str, np.ndarray]]  # this process's rows of a step's batch
    batch_shapes: dict[str, jax.ShapeDtypeStruct]  # of the whole batch

    @property
    def constants(self) -> tuple[Any, ...]:
        """The teacher's parameters, which `init` and `train_step` of a distilled run take."""
        return () if self.distilled is None else (self.distilled.teacher.params,)


def fit_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, on_step: Callable[[], None] | None = None
) -> Outcome:
    """Train a run to the end, from the newest checkpoint in its folder if there is one.

    All processes of a multi-host run call this with the same arguments; process 0 writes the folder.

    Args:
      config: configuration of the run.
      workdir: folder of the run, which is created.
      on_step: called before each step; if given, nothing is printed.

    Returns:
      How the training ended.

    Raises:
      cli.UserError: if the configuration cannot work, the folder holds another run, another process trains
        in it, or the loss diverged.
    """
    log = tqdm.write if on_step is None and jax.process_index() == 0 else lambda text: None
    plan, abstract_state, notes = _check(config, workdir)
    if plan.distilled is not None:
        plan = plan._replace(distilled=distillation.place(plan.distilled, plan.parallelism))
    checkpoints = workdir / "checkpoints"
    with _run_folder(workdir, notes), _keeping(checkpoints), training.Checkpointer(
        checkpoints, config.keep_last, config.keep_every
    ) as checkpointer, hooks.make_hooks(
        config, plan.task, plan.score, plan.parallelism, workdir, plan.distilled
    ) as active_hooks:
        with cluster.fail_together():
            restored = checkpointer.restore_latest(abstract_state)
        state = plan.parallelism.init(plan.init, *plan.constants) if restored is None else restored[0]
        start = int(state.step)
        if start >= config.num_steps:
            log(_finished(config, workdir, start))
            return Outcome.ALREADY_DONE
        log(costs.overview(state.params))
        if plan.distilled is not None:
            log(distillation.describe(config, plan.distilled))
        compiled = plan.parallelism.compile(
            plan.train_step, abstract_state, plan.batch_shapes, *plan.constants
        )
        log(costs.estimate(config, plan.parallelism, abstract_state, compiled, *plan.constants))
        if start:
            log(f"Resuming after {start:,} steps.")
        state = _fit(config, plan, state, compiled, workdir, checkpointer, active_hooks, on_step)
    if int(state.step) == config.num_steps:
        return Outcome.DONE
    log(
        f"Stopped after {int(state.step):,} of {config.num_steps:,} steps; a checkpoint was saved. "
        "The same command resumes the run."
    )
    return Outcome.STOPPED


def _finished(config: ml_collections.ConfigDict, workdir: pathlib.Path, done: int) -> str:
    text = f"The run in {workdir} is finished: {done:,} of {config.num_steps:,} steps are done."
    if config.optimizer.schedule == "constant":
        text += f" To train longer, give --config.num_steps above {done:,}."
    return text


def _check(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> tuple[_Plan, Any, dict[str, Any]]:
    """Check a run; return its plan, the shapes of the training state, and notes for `checks`."""
    with cluster.fail_together() as common:
        checks.check_address(workdir)
        network = networks.network_config(config)
        _expand_home(config)
        if "teacher" in config:
            checks.check_distillation(config)
            checks.check_teacher_folder(config, workdir)
            teachers.find_teacher(config)
        checks.check_numbers(config)
        task = make_task(config, network)
        common["teacher"] = config.get("teacher")
    with cluster.fail_together():  # all processes together load a teacher's checkpoint
        distilled = distillation.prepare(config, task)
    with cluster.fail_together() as notes:
        notes["config"] = json.loads(config.to_json_best_effort())
        notes["latents"] = task.metadata
        notes["teacher"] = None if distilled is None else distillation.notes(distilled)
        plan = _make_plan(config, task, distilled)
        abstract_state = plan.parallelism.abstract(plan.init, *plan.constants)
        checks.check_folder(workdir, notes)
    return plan, abstract_state, notes


def _expand_home(config: ml_collections.ConfigDict) -> None:
    """Replace ~ in the paths of a configuration."""
    names = ("autoencoder", "inception", "reference", "teacher")
    paths = {name: config[name] for name in names if config.get(name)}
    names = ("folder", "eval_folder", "cache")
    paths |= {f"data.{name}": config.data[name] for name in names if config.data.get(name)}
    config.update_from_flattened_dict({name: files.expand_home(path) for name, path in paths.items()})


@contextlib.contextmanager
def _run_folder(workdir: pathlib.Path, notes: dict[str, Any]) -> Iterator[None]:
    """Make the folder of a run, hold its lock in the context, and describe the run in it."""
    with contextlib.ExitStack() as stack:
        with cluster.fail_together():
            if jax.process_index() == 0:
                workdir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.hold(workdir))
                checks.check_folder(workdir, notes)  # another process may have made it a moment ago
                for name, content in checks.folder_files(notes):
                    files.write_json(workdir / name, content)
        with cluster.fail_together():
            cluster.check_shared(workdir)
        yield


@contextlib.contextmanager
def _keeping(checkpoints: pathlib.Path) -> Iterator[None]:
    """Turn errors of files and buckets into `UserError`, with the step from which the run can be resumed."""
    try:
        yield
    except Exception as error:
        problem = bucket_problem(error)
        if problem is None and not isinstance(error, OSError):
            raise
        step = None
        with contextlib.suppress(OSError), training.Snapshots(checkpoints, read_only=True) as snapshots:
            step = snapshots.latest_step()  # fails if the bucket is out of reach
        if step is not None:
            then = f" The run then continues after step {step:,}."
        else:
            then = " The run then starts again." if problem is None else ""
        raise cli.UserError(f"{cli.describe(error)}{then}") from error


def _make_plan(
    config: ml_collections.ConfigDict, task: Any, distilled: distillation.Distillation | None
) -> _Plan:
    parallelism = sharding.make_parallelism(config.parallel, **config.mesh)
    rows = parallelism.rows(config.batch_size)
    checks.check_microbatches(config, parallelism)
    hooks.check_hooks(config)
    optimizer = steps.make_optimizer(config)
    batches = task.batches(config.batch_size, config.seed)
    batch_fn = functools.partial(batches, rows=rows)  # can be pickled for worker processes, unlike a closure
    first = batch_fn(0)
    checks.check_batch(first, config)
    if config.eval_every:  # its data must be there, too, before the first step
        task.evaluation_batches(config.batch_size, config.seed)(0, rows)
    return _Plan(
        task,
        hooks.load_score(config, task),
        parallelism,
        distilled,
        steps.make_init(config, optimizer, distilled),
        steps.make_train_step(config, optimizer, parallelism, distilled),
        batch_fn,
        _global_shapes(first, config.batch_size),
    )


def _fit(
    config, plan: _Plan, state, compiled, workdir, checkpointer, active_hooks, on_step
) -> training.TrainState:
    parallelism, batches = plan.parallelism, _batches(config, plan.batch_fn, int(state.step))

    def batch_fn(step):
        if on_step is not None:
            on_step()
        return parallelism.put(next(batches), config.batch_size)

    with contextlib.ExitStack() as stack:
        writer = None
        if jax.process_index() == 0:
            writer = stack.enter_context(training.MetricWriter(workdir, resume_step=int(state.step)))
        try:
            return training.fit(
                state,
                lambda state, batch, key: compiled(state, batch, key, *plan.constants),
                batch_fn,
                parallelism.replicate(jax.random.key(config.seed)),
                config.num_steps,
                writer=writer,
                checkpointer=checkpointer,
                hooks=active_hooks,
                portable=parallelism.portable,
                log_every=config.log_every,
                checkpoint_every=config.checkpoint_every,
                max_skipped_in_row=config.max_skipped_in_row,
                global_batch_size=config.batch_size,
                peak_images_per_second=costs.peak_images_per_second(config, parallelism),
                progress=on_step is None,
            )
        except FloatingPointError as error:
            raise cli.UserError(str(error)) from error


def _global_shapes(batch, batch_size: int):
    return {
        name: jax.ShapeDtypeStruct((batch_size, *rows.shape[1:]), rows.dtype) for name, rows in batch.items()
    }


def _batches(config, batch_fn: Callable, start: int):
    c = config.data
    if not c.num_threads and not c.num_workers:
        return map(batch_fn, range(start, config.num_steps))
    return data.prefetch(
        batch_fn, start, config.num_steps, num_threads=c.num_threads, num_workers=c.num_workers
    )
