"""A trained run from its folder, and the solvers that sample from it."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import runs
from experiments.latents import load_autoencoder
from experiments.tasks import make_task
from gmflow_jax import data, flow, guidance, interop, solvers, training

_LARGEST_RESIDUAL = 0.05  # of a rebuilt average's profile

@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What sampling needs of a run: its task, its network and the averaged parameters."""

    config: ml_collections.ConfigDict
    task: Any
    apply: Callable
    params: Any
    step: int

    def denoiser(self, labels, guidance_scale: float = 0.0) -> Callable:
        """denoise(x_t, t) for samples of these classes, guided where the scale is not 0."""
        if not self.task.class_names:
            return flow.denoiser(lambda x_t, t: self.apply(self.params, x_t, t))
        null = jnp.full_like(labels, self.config.network.num_classes)
        conditional, unconditional = (
            flow.denoiser(lambda x_t, t, y=y: self.apply(self.params, x_t, t, y)) for y in (labels, null)
        )
        if not guidance_scale:
            return conditional
        return guidance.guided_denoiser(conditional, unconditional, guidance_scale)

    def spectrum(self, solver: str, wanted: bool | None = None) -> Callable | None:
        """Surrogate over x_0 -> log power for `make_solver`, or None where it is not wanted.

        By default it is wanted where the run has learned one and the solver is gm_sde. ValueError if it
        is wanted elsewhere.
        """
        function = runs.spectrum_function(self.config)
        if wanted is None:
            wanted = function is not None and solver == "gm_sde"
        if not wanted:
            return None
        if function is None:
            raise ValueError(
                "This run has learned no spectrum. Train one with config.spectrum, such as "
                "experiments/configs/digits_spectrum.py, or leave the spectrum out."
            )
        return functools.partial(function, self.params)

    def draw(
        self,
        keys: jax.Array,
        labels: jax.Array,
        solver: solvers.Solver,
        times: jax.Array,
        guidance_scale: float = 0.0,
    ) -> jax.Array:
        """Samples in the network's space, sample i from keys[i] and labels[i]."""
        noise_keys, step_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        noise = jax.vmap(lambda k: jax.random.normal(k, self.task.sample_shape))(noise_keys)
        return solvers.sample(step_keys, self.denoiser(labels, guidance_scale), noise, solver, times)

    def sampler(
        self, solver: solvers.Solver, times: jax.Array, num_samples: int, guidance_scale: float = 0.0
    ) -> Callable:
        """Compile sample(key, labels, progress=iter) -> samples [num_samples, ...] in the task's data space.

        Sample i depends on the key, i and its label alone, not on the batches, which `progress` wraps.
        """
        size = min(self.task.sample_batch_size, num_samples)

        def run(keys, labels):
            return self.draw(keys, labels, solver, times, guidance_scale)

        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
        compiled = jax.jit(run).lower(keys, jax.ShapeDtypeStruct((size,), jnp.int32)).compile()

        def sample(key, labels: np.ndarray, progress: Callable = iter) -> np.ndarray:
            starts = range(0, num_samples, size)
            # The last batch is filled up, so that one compiled shape serves all.
            indices = jnp.arange(len(starts) * size)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
            padded = jnp.asarray(np.resize(labels, len(indices)), jnp.int32)
            parts = [np.asarray(compiled(keys[i : i + size], padded[i : i + size])) for i in progress(starts)]
            return self.task.decode(np.concatenate(parts)[:num_samples])

        return sample


def make_solver(
    name: str,
    num_steps: int,
    order: int = 2,
    num_substeps: int | None = None,
    shift: float = 1.0,
    spectrum: Callable | None = None,
) -> solvers.Solver:
    """The solver called `name`.

    gm_ode and gm_pc make midpoint sub-steps, 16 in all and at least 2 in a step unless num_substeps is
    given: no worse than the paper's 128 of Euler, for a quarter of the sweeps (`experiments.solver_study`).
    `spectrum` is for gm_sde, see `TrainedRun.spectrum`.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, but {num_steps} was given.")
    num_substeps = max(16 // num_steps, 2) if num_substeps is None else num_substeps
    return solvers.by_name(name, order, num_substeps, shift, integrator="midpoint", spectrum=spectrum)


def num_calls(solver: str, num_steps: int) -> int:
    """Network calls that so many steps to t = 0 take."""
    return 2 * num_steps - 1 if solver == "heun" else num_steps  # Heun's last step is Euler's


def load_run(workdir: str) -> TrainedRun:
    """Load a trained run of digits or points; ValueError with a sentence if there is none."""
    config = runs.read_config(workdir)
    if draws_latents(config):
        raise ValueError(
            f"{workdir} holds a run on latents, which has no scores of its own. Draw from it by python -m "
            f"experiments.sample --workdir={workdir} --autoencoder=FOLDER."
        )
    params, meta = _load_average(workdir, config)
    apply = runs.abstract_network(config)[0]
    return TrainedRun(config, make_task(config), apply, params, meta["step"])


def draws_latents(config: ml_collections.ConfigDict) -> bool:
    """Whether samples of a run are latents, which an autoencoder turns into pictures."""
    return config.task in ("latents", "fake")


def load_bundle(
    workdir: str, average: str = "final", autoencoder: str | None = None, ema_std: float | None = None
) -> interop.Bundle:
    """The networks of a run on latents, with averaged parameters, as an exported folder holds them.

    `average` is 'final', or 'best' by the evaluation loss; `ema_std` asks for a power-function average of
    that relative width instead. `autoencoder` is a folder, refused if the latents are not of it.
    """
    config = runs.read_config(workdir)
    if not draws_latents(config):
        raise ValueError(
            f"{workdir} holds a run on the {config.task}, which has no diffusers form; only runs on latents do."
        )
    if ema_std is None:
        params, _ = _load_average(workdir, config, average)
    else:
        params = _power_average(workdir, config, ema_std)
    networks = runs.build_networks(config, params)
    note = pathlib.Path(workdir) / "latents.json"
    metadata = data.LatentMetadata.from_json(json.loads(note.read_text()), str(note)) if note.exists() else None
    if autoencoder:
        networks["autoencoder"] = load_autoencoder(autoencoder, metadata)
    folders = metadata.class_folders if metadata else ()
    id2label = {i: metadata.class_names.get(name, name) for i, name in enumerate(folders)}
    return interop.Bundle(**networks, id2label=id2label)


def _load_average(workdir: str, config, average: str = "final") -> tuple[Any, dict]:
    if average not in ("final", "best"):
        raise ValueError(f"There is no average {average!r}; give 'final' or 'best'.")
    folder = pathlib.Path(workdir) / ("checkpoints" if average == "final" else "best")
    if average == "best" and not folder.exists():
        raise ValueError(f"{workdir} was trained without eval_every, so no parameters are its best; give final.")
    with training.Snapshots(folder) as snapshots:
        if not snapshots.steps():
            raise ValueError(
                f"The run in {workdir} has no checkpoint yet. Wait for its first one, or train on."
            )
        restored = snapshots.restore(ema=runs.abstract_network(config)[1])
    return restored["ema"], restored["meta"]


def _power_average(workdir: str, config, std: float) -> Any:
    """The parameters at the end of what is stored, averaged with relative width `std`."""
    folder = pathlib.Path(workdir) / "post_hoc"
    if not folder.exists():
        raise ValueError(
            f"{workdir} stored no averages for other widths: train with post_hoc_ema.stds and post_hoc_ema.every."
        )
    shapes, stds = runs.abstract_network(config)[1], tuple(config.post_hoc_ema.stds)
    with training.Snapshots(folder) as snapshots:
        stored = [(step, i) for step in snapshots.steps() for i in range(len(stds))]
        profiles = [(step, stds[i]) for step, i in stored]
        last = max((step for step, _ in stored), default=0)
        weights = training.post_hoc_weights(profiles, last, std)
        residual = training.post_hoc_residual(profiles, weights, last, std)
        if residual > _LARGEST_RESIDUAL:
            raise ValueError(
                f"The averages stored in {folder} give one of relative width {std} only with an error of "
                f"{residual:.0%} of its profile. Ask for a width nearer to {stds}, or store more often."
            )
        trees = (
            snapshots.restore(step, **{f"average_{i}": shapes})[f"average_{i}"] for step, i in stored
        )
        return training.combine(trees, weights)
