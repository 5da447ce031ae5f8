"""A trained run, loaded from its folder."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.common import solver_choices
from experiments.common.batches import full_batches
from experiments.runs import bundles, folder, networks
from experiments.runs.known import Known
from experiments.tasks.make import make_task
from gmflow_jax import flow, guidance, models, solvers


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained run, ready to sample from.

    Attributes:
      config: configuration of the run.
      task: task of the run, see `make_task`.
      apply: the network, apply(params, x_t, t, labels), or without labels if the task has no classes.
      params: averaged parameters.
      step: training step of the parameters.
    """

    config: ml_collections.ConfigDict
    task: Any
    apply: Callable
    params: Any
    step: int

    @property
    def num_calls(self) -> int | None:
        """Number of network calls that the run was distilled for; None for other runs."""
        return self.config.get("num_calls")

    @property
    def shift(self) -> float:
        """Shift of the time grid that a distilled run was trained for; 1 for other runs."""
        return 1.0 if self.num_calls is None else self.config.distillation.shift

    def usual_sampling(self) -> tuple[solvers.Solver, jax.Array]:
        """Return the solver and the times of samples while training: as distilled, or 8 steps."""
        num_steps = self.num_calls or 8
        name = "gm_ode" if self.num_calls or self.config.loss.loss != "flow" else "ab2"
        solver = solver_choices.make_solver(
            name, num_steps, shift=self.shift, integrator=self.integrator, **self.usual_options(num_steps)
        )
        return solver, flow.time_grid(num_steps, self.shift)

    @property
    def null_label(self) -> int:
        """The label of samples of no class; raises ValueError if the run has not learned them."""
        if not self.config.get("loss", {}).get("class_dropout_prob"):
            raise ValueError(
                "This run was trained with a class for each image (class_dropout_prob is 0, or it is "
                "distilled), so that it cannot draw without one. Give --classes."
            )
        return self.config.network.num_classes

    @property
    def integrator(self) -> str:
        """Method of the sub-steps: that of its training for a distilled run, and midpoint for other runs."""
        return "midpoint" if self.num_calls is None else self.config.distillation.integrator

    def usual_options(self, num_steps: int) -> dict[str, int]:
        """Return `order` and `num_substeps` of `make_solver` that are used if none are given.

        A distilled run is sampled with order 1, and with the number of sub-steps of its training.
        """
        if self.num_calls is None:
            return {"order": 2, "num_substeps": solver_choices.default_substeps(num_steps)}
        return {"order": 1, "num_substeps": -(-self.config.distillation.num_substeps // num_steps)}

    def denoiser(self, labels, guidance_scale: jax.Array | float | None = None, **options) -> Callable:
        """Make denoise(x_t, t) for samples of given classes.

        Args:
          labels: [B], the class of each sample; ignored if the task has no classes.
          guidance_scale: scale of guidance; None for the conditional network alone.
          **options: further arguments of `guidance.guided_denoiser`.
        """
        if not self.task.class_names:
            return flow.denoiser(lambda x_t, t: self.apply(self.params, x_t, t))

        def predict(x_t, t, labels):
            return flow.denoiser(lambda x, t: self.apply(self.params, x, t, labels))(x_t, t)

        if guidance_scale is None:
            return lambda x_t, t: predict(x_t, t, labels)
        null = jnp.full_like(labels, self.config.network.num_classes)
        cond_and_uncond = guidance.in_one_batch(predict, labels, null)
        return guidance.guided_denoiser(cond_and_uncond, None, guidance_scale, **options)

    def spectrum(self, solver: str, wanted: bool | None = None) -> Callable | None:
        """Return the learned spectrum, Gaussian over x_0 -> log power, for `make_solver`, or None.

        `wanted` says whether to return it; by default, if the run has learned one and the solver is gm_sde.
        Raises ValueError if it is wanted, but the run has learned none.
        """
        function = networks.spectrum_function(self.config)
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
        guidance_scale: jax.Array | float | None = None,
        known: Known | None = None,
        **options,
    ) -> jax.Array:
        """Draw samples in the network's space; sample i depends on keys[i] and labels[i] alone.

        Args:
          keys: [B] random keys.
          labels: [B], the class of each sample.
          solver: solver from `make_solver`.
          times: time grid, from 1 to 0.
          guidance_scale: scale of guidance; None for none.
          known: pixels that are known, of B samples; None if nothing is.
          **options: further arguments of `guidance.guided_denoiser`.

        Returns:
          [B, *task.sample_shape].
        """
        noise_keys, step_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        noise = jax.vmap(lambda k: jax.random.normal(k, self.task.sample_shape))(noise_keys)
        denoise = self.denoiser(labels, guidance_scale, **options)
        if known is not None:
            denoise, solver = known.condition(denoise, solver)
        return solvers.sample(step_keys, denoise, noise, solver, times)

    def sampler(
        self,
        solver: solvers.Solver,
        times: jax.Array,
        num_samples: int,
        guided: bool = False,
        known: Known | None = None,
        **options,
    ) -> Callable:
        """Compile a function that draws samples in the space of the data.

        Args:
          solver: solver from `make_solver`.
          times: time grid, from 1 to 0.
          num_samples: number of samples of each call.
          guided: whether to compile with guidance. Then any scale may be passed; otherwise it is ignored.
          known: known pixels of each of the samples; None if nothing is known.
          **options: further arguments of `guidance.guided_denoiser`.

        Returns:
          sample(key, labels, guidance_scale=0.0, progress=iter), which returns `num_samples` samples. Each
          depends on the key, its index, its label and the scale alone, not on the batch size. `progress`
          wraps the iteration over batches.
        """
        size = min(self.task.sample_batch_size, num_samples)

        def draw(params, keys, labels, scale, known):  # XLA would fold parameters that are constants
            run = dataclasses.replace(self, params=params)
            return run.draw(keys, labels, solver, times, scale if guided else None, known, **options)

        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size))
        shapes = (jax.ShapeDtypeStruct((size,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32))
        compiled = jax.jit(draw).lower(self.params, keys, *shapes, _rows(known, slice(size))).compile()

        def sample(
            key, labels: np.ndarray, guidance_scale: float = 0.0, progress: Callable = iter
        ) -> np.ndarray:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_samples))
            labels, scale = np.asarray(labels, np.int32), jnp.float32(guidance_scale)
            parts = [
                np.asarray(compiled(self.params, keys[batch], labels[batch], scale, _rows(known, batch)))
                for batch in progress(full_batches(num_samples, size))
            ]
            return self.task.decode(np.concatenate(parts)[:num_samples])

        return sample


def _rows(known: Known | None, batch) -> Known | None:
    return jax.tree.map(lambda array: np.asarray(array, np.float32)[batch], known)


def load_comparable(workdirs: Sequence[str], scored: bool = True) -> list[TrainedRun]:
    """Load runs to compare in one table; raise ValueError if their tasks differ."""
    loaded = [load_run(workdir, scored) for workdir in workdirs]
    names = {run.config.task for run in loaded}
    if len(names) > 1:
        raise ValueError(
            f"The runs are of different tasks ({', '.join(sorted(names))}), whose scores cannot be "
            "compared. Evaluate them separately."
        )
    return loaded


def load_run(workdir: str, scored: bool = True) -> TrainedRun:
    """Load a trained run; raise ValueError if there is none.

    If `scored`, refuses runs on latents, whose samples have no scores without an autoencoder.
    """
    config = folder.read_config(workdir)
    if scored and bundles.draws_latents(config):
        raise ValueError(
            f"{workdir} holds a run on latents, which have no scores of their own. Sample from it with "
            f"python -m experiments.sample --workdir={workdir} --autoencoder=FOLDER."
        )
    params, meta = bundles.load_average(workdir, config)
    apply = networks.abstract_network(config)[0]
    return TrainedRun(config, make_task(config, networks.network_config(config)), apply, params, meta["step"])


def describe_runs(workdirs: Sequence[str], loaded: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """Describe each run in a report: folder, step, configuration and hash of the averaged parameters."""
    return [
        {
            "workdir": str(workdir),
            "step": run.step,
            "weights_sha256": models.fingerprint(run.params),
            "config": json.loads(run.config.to_json_best_effort()),
        }
        for workdir, run in zip(workdirs, loaded, strict=True)
    ]
