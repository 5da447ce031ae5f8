"""The networks that make pictures together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from gmflow_jax.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    GMDiT,
    GMDiTConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    from_params,
    functional,
    init_params,
)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The parts of a diffusers folder; None for those that it does not hold.

    Attributes:
      model: The transformer.
      spectrum: The network for the power spectrum of GM-SDE's noise.
      autoencoder: From latents to images.
      id2label: The words of each class, comma-separated, by id; empty if they are not known.
      shift: Shift of the time grid, see `flow.time_grid`.
    """

    model: GMDiT | None = None
    spectrum: SpectrumMLP | None = None
    autoencoder: AutoencoderKL | None = None
    id2label: Mapping[int, str] = dataclasses.field(default_factory=dict)
    shift: float = 1.0

    @property
    def config(self) -> GMDiTConfig | None:
        """The transformer's configuration."""
        return None if self.model is None else self.model.config

    @property
    def networks(self) -> dict[str, nnx.Module]:
        """Those that there are, by the names of their attributes."""
        named = {"model": self.model, "spectrum": self.spectrum, "autoencoder": self.autoencoder}
        return {name: network for name, network in named.items() if network is not None}

    @property
    def params(self) -> dict[str, Any] | None:
        """The transformer's parameters as a nested dict of arrays."""
        return None if self.model is None else functional(self.model)[1]


def init_bundle(
    key: jax.Array,
    config: GMDiTConfig,
    spectrum_config: SpectrumMLPConfig | None = None,
    autoencoder_config: AutoencoderKLConfig | None = None,
    **fields: Any,
) -> Bundle:
    """Networks with random weights, drawn as for training; `fields` are the other ones of `Bundle`."""
    parts = {
        "model": (GMDiT, config),
        "spectrum": (SpectrumMLP, spectrum_config),
        "autoencoder": (AutoencoderKL, autoencoder_config),
    }
    draw = jax.jit(init_params, static_argnums=(0, 1))  # not drawn one by one, which takes longer
    networks = {
        name: from_params(network, c, draw(network, c, jax.random.fold_in(key, i)))
        for i, (name, (network, c)) in enumerate(parts.items())
        if c is not None
    }
    return Bundle(**networks, **fields)
