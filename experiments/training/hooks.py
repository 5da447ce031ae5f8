"""Hooks of a training run: samples, scores, evaluation, stored averages and a profile."""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from experiments.common.batches import full_batches
from experiments.runs import networks, trained
from experiments.scoring import measure
from experiments.tasks.fake import FakeTask
from experiments.tasks.latents import LatentTask
from experiments.training import distillation, steps
from gmflow_jax import sharding, training
from gmflow_jax._files import is_address, upload_folder
from gmflow_jax.training import Hook, Snapshots

Score = Callable[[np.ndarray, np.ndarray], dict[str, float]]

_GRID = 16  # samples in a grid
_PER_DEVICE = 64  # samples that a device draws at a time


def check_hooks(config) -> None:
    """Raise ValueError if a configuration has hooks that cannot work."""
    _profiled_steps(config)
    if config.post_hoc_ema.stds and not config.post_hoc_ema.every:
        raise ValueError(
            f"post_hoc_ema.stds is {config.post_hoc_ema.stds}, but post_hoc_ema.every is 0, so these "
            "averages would never be stored; give the number of steps between two stored averages."
        )
    if config.post_hoc_ema.every and not config.post_hoc_ema.stds:
        raise ValueError(
            "post_hoc_ema.every is given, but post_hoc_ema.stds is empty, so there is nothing to store; give "
            "widths such as (0.05,0.1)."
        )
    for std in config.post_hoc_ema.stds:
        training.power_gamma(std)


def load_score(config, task) -> Score | None:
    """Return score(samples, labels) for `config.score_every`, or None if that is 0.

    Loads Inception and the reference for images. Raises ValueError if the task's samples cannot be scored.
    """
    if not config.score_every:
        return None
    if not isinstance(task, FakeTask):
        return lambda samples, labels: task.score(samples, labels)._asdict()
    if not isinstance(task, LatentTask):
        raise ValueError("Random latents have no scores; set score_every to 0.")
    if not (config.autoencoder and config.inception and config.reference):
        raise ValueError(
            "Scores of images (score_every) need autoencoder, inception and reference; give all three, or "
            "score_every = 0."
        )
    measurement = measure.load(
        config.inception,
        config.reference,
        task.image_size,
        config.score_samples,
        defaults=measure.SWEPT_METRICS,
        exif_orientation=task.exif_orientation,
    )
    return lambda images, labels: measurement.scores(measurement.features([images]))


@contextlib.contextmanager
def make_hooks(
    config,
    task,
    score: Score | None,
    parallelism: sharding.Parallelism,
    workdir: pathlib.Path,
    distilled: distillation.Distillation | None = None,
) -> Iterator[list[Hook]]:
    """Make the hooks of a configuration; when the context ends, their files are complete.

    Args:
      config: configuration of the run.
      task: task of the run.
      score: result of `load_score`.
      parallelism: parallelism of the run.
      workdir: folder of the run.
      distilled: the teacher of a distilled run.

    Yields:
      The hooks, for `training.fit`.
    """
    hooks = []
    with contextlib.ExitStack() as stack:
        if config.profile_steps:
            first_and_last = _profiled_steps(config)
            profile = stack.enter_context(_Profile(first_and_last, workdir / "profile"))
            hooks.append(Hook(0, profile, at=first_and_last))
        if config.sample_every:
            grid = _SampleGrid(config, task, parallelism, workdir / "samples")
            hooks.append(Hook(config.sample_every, grid))
        if config.score_every:
            hooks.append(Hook(config.score_every, _Scores(config, task, score, parallelism)))
        if config.eval_every:
            best = stack.enter_context(Snapshots(workdir / "best", keep=1))
            evaluation = _Evaluation(config, task, parallelism.mesh, best, distilled)
            hooks.append(Hook(config.eval_every, evaluation))
        if config.post_hoc_ema.every:
            store = stack.enter_context(Snapshots(workdir / "post_hoc"))
            hooks.append(Hook(config.post_hoc_ema.every, _PowerAverages(config.post_hoc_ema.stds, store)))
        yield hooks


class _Sampler:
    """Draws samples with the averaged parameters on all devices, always from the same noise."""

    def __init__(self, config, task, parallelism: sharding.Parallelism):
        self._parallelism = parallelism
        apply = networks.abstract_network(config)[0]

        def draw(params, keys, labels):
            run = trained.TrainedRun(config, task, apply, params, 0)
            return run.draw(keys, labels, *run.usual_sampling())

        self._key = jax.random.key(config.seed)
        self._draw = jax.jit(draw, out_shardings=parallelism.replicated)

    def __call__(self, state: training.TrainState, labels: np.ndarray) -> np.ndarray:
        """Draw a sample in the network's space for each label; all processes get the same."""
        devices = self._parallelism.mesh.size
        size = min(_PER_DEVICE * devices, -(-len(labels) // devices) * devices)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, jnp.arange(len(labels)))
        parts = []
        with jax.set_mesh(self._parallelism.mesh):
            for batch in full_batches(len(labels), size):
                inputs = self._parallelism.replicate((keys[batch], labels[batch]))
                parts.append(np.asarray(self._draw(state.ema_params, *inputs)))
        return np.concatenate(parts)[: len(labels)]


class _SampleGrid:
    """Writes a grid of samples."""

    def __init__(self, config, task, parallelism: sharding.Parallelism, folder: pathlib.Path):
        self._task, self._folder, self._draw = task, folder, _Sampler(config, task, parallelism)
        classes = config.network.get("num_classes") or 1
        self._labels = np.arange(_GRID, dtype=np.int32) * max(classes // _GRID, 1) % classes

    def __call__(self, state: training.TrainState, step: int) -> None:
        x = self._draw(state, self._labels)
        if jax.process_index() == 0:
            self._folder.mkdir(exist_ok=True)
            self._task.picture(self._folder / f"step_{step:08d}.png", x)


class _Scores:
    """Scores samples as reports do; the names of the metrics end in the number of samples."""

    def __init__(self, config, task, score: Score, parallelism: sharding.Parallelism):
        self._task, self._score, self._draw = task, score, _Sampler(config, task, parallelism)
        self._labels = task.labels_of_samples(config.score_samples)

    def __call__(self, state: training.TrainState, step: int) -> dict[str, float]:
        x = self._draw(state, self._labels)
        if jax.process_index() > 0:
            return {}
        try:
            scores = self._score(self._task.decode(x), self._labels)
        except ValueError as error:  # a network that diverges may recover, and the other processes go on
            tqdm.write(f"No scores after {step:,} steps: {error}")
            return {}
        return {f"{name}_n{len(x)}": value for name, value in scores.items()}


class _Evaluation:
    """Evaluates the averaged parameters on fixed batches and draws, and stores the best ones."""

    def __init__(self, config, task, mesh: jax.sharding.Mesh, best: Snapshots, distilled):
        self._config, self._batches = config, task.evaluation_batches(config.batch_size, config.seed)
        self._parallelism, self._best = sharding.JitParallelism(mesh), best
        loss = steps.make_eval_loss(config, self._parallelism, distilled)
        self._constants = () if distilled is None else (self._parallelism.place(distilled.teacher.params),)
        self._loss = jax.jit(loss, out_shardings=self._parallelism.replicated)
        self._lowest = best.read_meta()["eval_loss"] if best.steps() else float("inf")

    def __call__(self, state: training.TrainState, step: int) -> dict[str, float]:
        size, rows = self._config.batch_size, self._parallelism.rows(self._config.batch_size)
        key = jax.random.key(self._config.seed + 1)
        losses = []
        with jax.set_mesh(self._parallelism.mesh):
            for i in range(self._config.eval_batches):
                batch = self._parallelism.put(self._batches(i, rows), size)
                draws = self._parallelism.replicate(jax.random.fold_in(key, i))
                losses.append(self._loss(state.ema_params, batch, draws, *self._constants))
        value = float(np.mean(jax.device_get(losses), dtype=np.float64))
        if value < self._lowest:
            self._lowest = value
            self._best.save(step, {"ema": state.ema_params}, {"step": step, "eval_loss": value})
            self._best.wait()
        return {"eval_loss": value}


class _PowerAverages:
    """Stores the power-function averages, from which `experiments.export --ema_std` rebuilds others."""

    def __init__(self, stds: Sequence[float], snapshots: Snapshots):
        self._stds, self._snapshots = list(stds), snapshots

    def __call__(self, state: training.TrainState, step: int) -> None:
        trees: dict[str, Any] = {f"average_{i}": tree for i, tree in enumerate(state.power_averages)}
        self._snapshots.save(step, trees, {"step": step, "stds": self._stds})
        self._snapshots.wait()


class _Profile(contextlib.AbstractContextManager):
    """Writes a profile of the steps between two given ones, for TensorBoard or Perfetto."""

    def __init__(self, first_and_last: tuple[int, int], folder: pathlib.Path):
        (self._first, self._last), self._folder = first_and_last, folder
        self._running = contextlib.ExitStack()

    def __call__(self, state: training.TrainState, step: int) -> None:
        if step == self._first:
            self._running.enter_context(_trace(self._folder))
        else:
            self._running.close()

    def __exit__(self, *error) -> None:
        self._running.close()  # the run may end before the last profiled step


@contextlib.contextmanager
def _trace(folder: pathlib.Path) -> Iterator[None]:
    """Write a profile of the context into a folder, or an address: JAX itself writes local files only."""
    with contextlib.ExitStack() as stack:
        local = folder
        if is_address(folder):
            local = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gmflow-")))
        jax.profiler.start_trace(str(local))
        try:
            yield
        finally:
            jax.profiler.stop_trace()
        if is_address(folder):
            upload_folder(local, folder)


def _profiled_steps(config) -> tuple[int, int] | None:
    text = config.profile_steps
    if not text:
        return None
    numbers = [int(part) if part.strip().isdigit() else 0 for part in text.split(":")]
    if len(numbers) != 2 or not 0 < numbers[0] < numbers[1] <= config.num_steps:
        raise ValueError(
            f"profile_steps is {text!r}; give two steps in increasing order, at most {config.num_steps:,}, "
            "such as 100:110."
        )
    return numbers[0], numbers[1]
