"""The networks that a configuration describes."""

from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from gmflow_jax import models

_NETWORKS = {"gm_dit": (models.GMDiT, models.GMDiTConfig), "gm_mlp": (models.GMMLP, models.GMMLPConfig)}


def abstract_network(config: ml_collections.ConfigDict) -> tuple[Callable, Any]:
    """Return apply(params, x_t, t, labels) and the shapes of the parameters, without allocating them.

    The parameters are those of the network, or {'network': ..., 'spectrum': ...} if `config.spectrum` is set.
    """
    apply, shapes = models.abstract(*_network(config))
    if not config.get("spectrum"):
        return apply, shapes
    shapes = {"network": shapes, "spectrum": models.abstract(*_spectrum(config))[1]}
    return lambda params, *inputs: apply(params["network"], *inputs), shapes


def spectrum_function(config: ml_collections.ConfigDict) -> Callable | None:
    """Return spectrum(params, gaussian) -> log power, or None if `config.spectrum` is not set."""
    if not config.get("spectrum"):
        return None
    apply, _ = models.abstract(*_spectrum(config))
    return lambda params, gaussian: apply(params["spectrum"], gaussian)


def init_params(config: ml_collections.ConfigDict) -> Any:
    """Initialise the parameters that `abstract_network` describes, with the key of `config.seed`."""
    key = jax.random.key(config.seed)
    params = models.init_params(*_network(config), key)
    if not config.get("spectrum"):
        return params
    spectrum = models.init_params(*_spectrum(config), jax.random.fold_in(key, 1))
    return {"network": params, "spectrum": spectrum}


def build_networks(config: ml_collections.ConfigDict, params: Any) -> dict[str, Any]:
    """Build the networks with a run's parameters, as keyword arguments of `interop.Bundle`."""
    if not config.get("spectrum"):
        return {"model": models.from_params(*_network(config), params)}
    return {
        "model": models.from_params(*_network(config), params["network"]),
        "spectrum": models.from_params(*_spectrum(config), params["spectrum"]),
    }


def network_config(config: ml_collections.ConfigDict) -> models.GMDiTConfig | models.GMMLPConfig:
    """Return the configuration object of the network."""
    return _network(config)[1]


def _network(config):
    if "network" not in config:
        raise ValueError(
            "The file of --config describes no network; give that of a run, such as "
            "experiments/configs/digits.py."
        )
    if config.network.get("kind") not in _NETWORKS:
        raise ValueError(
            f"network.kind is {config.network.get('kind')!r}. Choose one of {', '.join(_NETWORKS)}."
        )
    network, config_class = _NETWORKS[config.network.kind]
    return network, _fill(config_class, config.network, excluded="kind")


def _spectrum(config):
    return models.SpectrumMLP, _fill(models.SpectrumMLPConfig, config.spectrum, excluded="loss_weight")


def _fill(config_class, options: ml_collections.ConfigDict, excluded: str):
    """Make a configuration object from all options but one."""
    try:
        return config_class(**{k: v for k, v in options.to_dict().items() if k != excluded})
    except TypeError as error:
        raise ValueError(f"The network's options do not fit {config_class.__name__}: {error}.") from error
