"""A run from its configuration: network, optimiser and step; and a trained run from its folder."""

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

from experiments.tasks import make_task
from gmflow_jax import flow, guidance, models, solvers, training

_EMA = {
    "constant": training.constant_decay,
    "warm_up": training.warm_up_decay,
    "ramp_up": training.ramp_up_decay,
    "karras": training.karras_decay,
}
_NETWORKS = {"gm_dit": (models.GMDiT, models.GMDiTConfig), "gm_mlp": (models.GMMLP, models.GMMLPConfig)}
# What may differ when a run is resumed: it decides what is written, not what is trained.
_FREE_TO_CHANGE = {"report", "log_every", "checkpoint_every"}


def abstract_network(config: ml_collections.ConfigDict) -> tuple[Callable, Any]:
    """apply(params, x_t, t, labels) and the shapes of all parameters, nothing allocated.

    The parameters are the network's, or {'network': ..., 'spectrum': ...} where `config.spectrum` asks
    for a power spectrum too.
    """
    apply, shapes = models.abstract(*_network(config))
    if not config.get("spectrum"):
        return apply, shapes
    shapes = {"network": shapes, "spectrum": models.abstract(*_spectrum(config))[1]}
    return lambda params, *inputs: apply(params["network"], *inputs), shapes


def spectrum_function(config: ml_collections.ConfigDict) -> Callable | None:
    """spectrum(params, gaussian) -> log power for a run's parameters, or None if it learns no spectrum."""
    if not config.get("spectrum"):
        return None
    apply, _ = models.abstract(*_spectrum(config))
    return lambda params, gaussian: apply(params["spectrum"], gaussian)


def init_params(config: ml_collections.ConfigDict) -> Any:
    key = jax.random.key(config.seed)
    params = models.init_params(*_network(config), key)
    if not config.get("spectrum"):
        return params
    spectrum = models.init_params(*_spectrum(config), jax.random.fold_in(key, 1))
    return {"network": params, "spectrum": spectrum}


def _network(config):
    if config.network.kind not in _NETWORKS:
        raise ValueError(
            f"network.kind is {config.network.kind!r}. Choose one of {', '.join(_NETWORKS)}."
        )
    network, config_class = _NETWORKS[config.network.kind]
    return network, _fill(config_class, config.network, but="kind")


def _spectrum(config):
    return models.SpectrumMLP, _fill(models.SpectrumMLPConfig, config.spectrum, but="loss_weight")


def _fill(config_class, options: ml_collections.ConfigDict, but: str):
    """The network's own configuration from all options but one."""
    try:
        return config_class(**{k: v for k, v in options.to_dict().items() if k != but})
    except TypeError as error:
        raise ValueError(f"The network's options do not fit {config_class.__name__}: {error}.") from error


def make_schedule(config: ml_collections.ConfigDict) -> Callable:
    """The learning rate as a function of the step."""
    c = config.optimizer
    if c.schedule == "cosine":
        return training.warm_up_cosine_schedule(
            c.learning_rate, c.warm_up_steps, config.num_steps, end_ratio=c.end_ratio
        )
    if c.schedule == "constant":
        return training.warm_up_schedule(c.learning_rate, c.warm_up_steps)
    raise ValueError(f"optimizer.schedule is {c.schedule!r}. Choose 'cosine' or 'constant'.")


def make_optimizer(config: ml_collections.ConfigDict):
    c = config.optimizer
    return training.make_optimizer(
        make_schedule(config), b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, clip_norm=c.clip_norm or None
    )


def make_train_step(config: ml_collections.ConfigDict, apply: Callable, optimizer) -> Callable:
    ema = config.ema.to_dict()
    kind = ema.pop("kind")
    if kind not in _EMA:
        raise ValueError(f"ema.kind is {kind!r}. Choose one of {', '.join(_EMA)}.")
    spectrum = spectrum_function(config)
    return training.make_train_step(
        apply,
        optimizer,
        _EMA[kind](**ema),
        num_classes=config.network.get("num_classes"),
        learning_rate=make_schedule(config),
        spectrum_apply=spectrum,
        spectral_loss_weight=config.spectrum.loss_weight if spectrum else 0.0,
        **config.loss.to_dict(),
    )


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
        function = spectrum_function(self.config)
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

    def sampler(
        self, solver: solvers.Solver, times: jax.Array, num_samples: int, guidance_scale: float = 0.0
    ) -> Callable:
        """Compile sample(key, labels, progress=iter) -> samples [num_samples, ...] in the task's data space.

        Sample i depends on the key, i and its label alone, not on the batches, which `progress` wraps.
        """
        size = min(self.task.sample_batch_size, num_samples)

        def run(keys, labels):
            noise_keys, step_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
            noise = jax.vmap(lambda k: jax.random.normal(k, self.task.sample_shape))(noise_keys)
            denoise = self.denoiser(labels, guidance_scale)
            return solvers.sample(step_keys, denoise, noise, solver, times)

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


def save_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Write config.json, unless the one that is there asks for another training."""
    path = workdir / "config.json"
    text = config.to_json_best_effort(indent=2, sort_keys=True)
    if path.exists():
        changed = _differences(json.loads(path.read_text()), json.loads(text))
        if changed:
            raise ValueError(
                f"{workdir} holds a run with another configuration ({'; '.join(changed)}). Give another "
                "--workdir, or the same configuration to resume it."
            )
    write_text(path, text + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    if old == new or name.split(".")[0] in _FREE_TO_CHANGE:
        return []
    return [f"{name} was {old} and is now {new}"]


def load_run(workdir: str) -> TrainedRun:
    """Load a trained run; ValueError with a sentence if there is none."""
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise ValueError(
            f"The workdir {workdir} does not exist. Train first: python -m experiments.train "
            f"--config=experiments/configs/digits.py --workdir={workdir}"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"The folder {workdir} holds no run: config.json is missing. Give the --workdir of "
            "python -m experiments.train."
        )
    config = ml_collections.ConfigDict(json.loads((folder / "config.json").read_text()))
    apply, shapes = abstract_network(config)
    with training.Checkpointer(folder / "checkpoints") as checkpointer:
        step = checkpointer.latest_step()
        if step is None:
            raise ValueError(
                f"The run in {workdir} has no checkpoint yet. Wait for its first one, or train on."
            )
        params = checkpointer.restore_ema(shapes)
    return TrainedRun(config, make_task(config.task), apply, params, step)
