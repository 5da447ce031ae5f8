"""A run from its configuration: network, optimiser and step; and its folder."""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from gmflow_jax import models, sharding, training

_EMA = {
    "constant": training.constant_decay,
    "warm_up": training.warm_up_decay,
    "ramp_up": training.ramp_up_decay,
    "karras": training.karras_decay,
}
_NETWORKS = {"gm_dit": (models.GMDiT, models.GMDiTConfig), "gm_mlp": (models.GMMLP, models.GMMLPConfig)}
# What may differ when a run is resumed: it decides where and how fast a run trains, and what is written.
_FREE_TO_CHANGE = {
    "autoencoder", "checkpoint_every", "data.folder", "data.num_threads", "data.num_workers", "eval_every",
    "inception", "keep_every", "keep_last", "log_every", "max_skipped_in_row", "mesh", "network.attention",
    "network.remat", "network.scan_layers", "num_microbatches", "parallel", "post_hoc_ema.every",
    "profile_steps", "reference", "report", "sample_every", "score_every", "score_samples",
}  # fmt: skip


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


def build_networks(config: ml_collections.ConfigDict, params: Any) -> dict[str, Any]:
    """The network, and the spectrum's where there is one, with parameters of a run: fields of a `Bundle`."""
    if not config.get("spectrum"):
        return {"model": models.from_params(*_network(config), params)}
    return {
        "model": models.from_params(*_network(config), params["network"]),
        "spectrum": models.from_params(*_spectrum(config), params["spectrum"]),
    }


def network_config(config: ml_collections.ConfigDict) -> models.GMDiTConfig | models.GMMLPConfig:
    """The network's own configuration."""
    return _network(config)[1]


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
        make_schedule(config),
        b1=c.b1,
        b2=c.b2,
        weight_decay=c.weight_decay,
        clip_norm=c.clip_norm or None,
        clip_begin_step=c.clip_begin_step,
        mu_dtype=c.mu_dtype,
    )


def make_init(config: ml_collections.ConfigDict, optimizer) -> Callable[[], training.TrainState]:
    """init() -> the state before the first step, to be compiled with shardings."""

    def init():
        averages = len(config.post_hoc_ema.stds)
        return training.init_state(init_params(config), optimizer, num_power_averages=averages)

    return init


def make_train_step(config: ml_collections.ConfigDict, optimizer, parallelism: sharding.Parallelism) -> Callable:
    ema = config.ema.to_dict()
    kind = ema.pop("kind")
    if kind not in _EMA:
        raise ValueError(f"ema.kind is {kind!r}. Choose one of {', '.join(_EMA)}.")
    loss, draws = _loss_options(config)
    return training.make_train_step(
        optimizer=optimizer,
        ema_decay=_EMA[kind](**ema),
        learning_rate=make_schedule(config),
        power_stds=tuple(config.post_hoc_ema.stds),
        num_microbatches=config.num_microbatches,
        axis_name=parallelism.axis_name,
        working_copy=parallelism.working_copy,
        **loss,
        **draws,
    )


def make_eval_loss(config: ml_collections.ConfigDict, parallelism: sharding.Parallelism) -> Callable:
    """loss(params, batch, key), the training loss of a batch."""
    loss, draws = _loss_options(config)
    loss_fn = training.make_loss(working_copy=parallelism.working_copy, **loss)

    def evaluate(params, batch, key):
        return loss_fn(params, training.draw_example(key, batch["x_0"], batch.get("labels"), **draws))[0]

    return evaluate


def _loss_options(config: ml_collections.ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """What makes the loss, and what draws its examples."""
    options = config.loss.to_dict()
    spectrum = spectrum_function(config)
    loss = {
        "apply": abstract_network(config)[0],
        "loss": options.pop("loss"),
        "loss_weight": options.pop("loss_weight", 1.0),
        "spectrum_apply": spectrum,
        "spectral_loss_weight": config.spectrum.loss_weight if spectrum else 0.0,
    }
    if loss["loss"] == "flow":
        options["transition_ratio"] = 1.0
    draws = {**options, "num_classes": config.network.get("num_classes")}
    # Options that cannot work are found here, not when the step is compiled.
    labels = jnp.zeros((1,), jnp.int32) if draws["num_classes"] else None
    draw = functools.partial(training.draw_example, **draws)
    try:
        jax.eval_shape(draw, jax.random.key(0), jnp.zeros((1, 1)), labels)
    except TypeError as error:
        raise ValueError(f"The options of config.loss cannot be used: {error}.") from error
    return loss, draws


def check_unchanged(
    path: pathlib.Path, new: Mapping[str, Any], what: str, flag: str = "--workdir"
) -> None:
    """ValueError if the json file at `path`, should there be one, asks for another training than `new`.

    Only fields of `new` count.
    """
    old = {name: value for name, value in read_json(path).items() if name in new} if path.exists() else new
    changed = _differences(old, new)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"{path.parent} was made with another {what} ({'; '.join(changed[:3])}{more}). Give another "
            f"{flag}, or the same as then to go on."
        )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A json file of a run; ValueError with a sentence if it is damaged."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or give another --workdir.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: no json object; restore it, or give another --workdir.")
    return content


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{name}.{k}" if name else k)]
    if old == new or name in _FREE_TO_CHANGE or name.split(".")[0] in _FREE_TO_CHANGE:
        return []
    return [f"{name} was {_short(old)} and is now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The configuration of a run; ValueError with a sentence if there is none."""
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
    return ml_collections.ConfigDict(read_json(folder / "config.json"))
