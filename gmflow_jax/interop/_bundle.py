"""The networks that draw images together, as one object."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

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

Network = GMDiT | SpectrumMLP | AutoencoderKL


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The networks of a diffusers folder. Networks that it does not hold are None.

    Attributes:
      model: transformer that predicts the mixture over the velocity.
      spectrum: network for the power spectrum of GM-SDE's noise.
      autoencoder: autoencoder between images and latents.
      id2label: names of each class, comma-separated, by class id; empty if they are not known.
      shift: shift of the time grid, see `flow.time_grid`.
      num_calls: number of network calls that the transformer was distilled for
        (`training.make_distillation_step`); None for other networks.
    """

    model: GMDiT | None = None
    spectrum: SpectrumMLP | None = None
    autoencoder: AutoencoderKL | None = None
    id2label: Mapping[int, str] = dataclasses.field(default_factory=dict)
    shift: float = 1.0
    num_calls: int | None = None

    @property
    def config(self) -> GMDiTConfig | None:
        """The transformer's configuration, or None."""
        return None if self.model is None else self.model.config

    @property
    def networks(self) -> dict[str, Network]:
        """The networks that are not None, by the names of their attributes."""
        named = {"model": self.model, "spectrum": self.spectrum, "autoencoder": self.autoencoder}
        return {name: network for name, network in named.items() if network is not None}

    @property
    def params(self) -> dict[str, Any] | None:
        """The transformer's parameters as a nested dict of arrays, or None."""
        return None if self.model is None else functional(self.model)[1]


def init_bundle(
    key: jax.Array,
    config: GMDiTConfig,
    spectrum_config: SpectrumMLPConfig | None = None,
    autoencoder_config: AutoencoderKLConfig | None = None,
    **fields: Any,
) -> Bundle:
    """Make networks with random initial weights.

    Args:
      key: PRNG key.
      config: the transformer's configuration.
      spectrum_config: the spectrum network's configuration; None makes none.
      autoencoder_config: the autoencoder's configuration; None makes none.
      **fields: further fields of `Bundle`: id2label, shift and num_calls.

    Returns:
      The networks.
    """
    parts = {
        "model": (GMDiT, config),
        "spectrum": (SpectrumMLP, spectrum_config),
        "autoencoder": (AutoencoderKL, autoencoder_config),
    }
    draw = jax.jit(init_params, static_argnums=(0, 1))  # one program draws faster than one per parameter
    networks = {
        name: from_params(network, c, draw(network, c, jax.random.fold_in(key, i)))
        for i, (name, (network, c)) in enumerate(parts.items())
        if c is not None
    }
    return Bundle(**networks, **fields)
