"""Mixtures of K components from a network that predicts one."""

import dataclasses
import math
from typing import TypeVar

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import whole_number
from gmflow_jax.models._config import GMDiTConfig, GMMLPConfig
from gmflow_jax.models._functional import Params, abstract, init_params
from gmflow_jax.models._gm_dit import GMDiT
from gmflow_jax.models._gm_mlp import GMMLP

_ConfigT = TypeVar("_ConfigT", GMDiTConfig, GMMLPConfig)


def repeat_components(
    config: _ConfigT,
    params: Params,
    num_components: int,
    *,
    offset_std: float = 0.05,
    log_std: float = math.log(0.05),
    key: jax.Array | None = None,
) -> tuple[_ConfigT, Params]:
    """Make a network that predicts K components from a network that predicts one.

    The mean of every component is the network's prediction plus an offset. The offsets are drawn for each
    component and each channel of each pixel of a patch, and sum to 0 over the components, so that the
    mixture's mean is the prediction. The weights are uniform, and the standard deviation is exp(log_std) at
    all times.

    Args:
      config: configuration of the network, with num_components = 1.
      params: its parameters.
      num_components: number of mixture components K.
      offset_std: standard deviation of the offsets of the component means, in units of the velocity.
      log_std: initial log standard deviation of the components; by default that of 0.05.
      key: PRNG key for the offsets and the hidden layers of the standard deviation; `jax.random.key(0)` by
        default.

    Returns:
      The configuration and the parameters of the new network, whose `constant_log_std` is None.

    Raises:
      ValueError: if the network predicts more than one component, or num_components is less than 1.

    Source:
      pi-Flow (arXiv 2510.14974), the start of a student from a plain flow model: offsets of 0.05 and
      log_std = log(0.05). Its offsets are not centred.
    """
    if config.num_components != 1:
        raise ValueError(
            f"The network predicts {config.num_components} components, but only one can be repeated; use it "
            "as it is, or give a network of one component."
        )
    num_components = whole_number("num_components", num_components, 1)
    model = GMDiT if isinstance(config, GMDiTConfig) else GMMLP
    config = dataclasses.replace(config, num_components=num_components, constant_log_std=None)
    shapes = abstract(model, config)[1]
    offset_key, log_std_key = jax.random.split(jax.random.key(0) if key is None else key)
    channels = config.in_channels if isinstance(config, GMDiTConfig) else config.num_dims
    pixels = params["means"]["bias"].size // channels
    shape = (1, pixels, num_components, channels)
    offsets = offset_std * jax.random.normal(offset_key, shape, jnp.float32)
    offsets -= jnp.mean(offsets, axis=2, keepdims=True)

    def repeated(name: str) -> jax.Array:
        one = jnp.asarray(params["means"][name], jnp.float32).reshape(-1, pixels, 1, channels)
        many = jnp.repeat(one, num_components, axis=2) + (offsets if name == "bias" else 0.0)
        return many.reshape(shapes["means"][name].shape).astype(shapes["means"][name].dtype)

    # Compiling removes the draws of all other parameters.
    initial = jax.jit(lambda key: init_params(model, config, key)["log_std"])(log_std_key)
    return config, params | {
        "means": {name: repeated(name) for name in ("kernel", "bias")},
        "log_weights": jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes["log_weights"]),
        "log_std": _with_output(initial, log_std),
    }


def _with_output(layers: Params, value: float) -> Params:
    """Return an MLP, or one linear layer, whose output is `value` for any input."""
    if "kernel" not in layers:
        last = f"layer_{len(layers) - 1}"
        return layers | {last: _with_output(layers[last], value)}
    return {"kernel": jnp.zeros_like(layers["kernel"]), "bias": jnp.full_like(layers["bias"], value)}
