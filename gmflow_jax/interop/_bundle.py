"""The networks that make pictures together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gmflow_jax.models import AutoencoderKL, GMDiT, GMDiTConfig, SpectrumMLP, functional


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
    def params(self) -> dict[str, Any] | None:
        """The transformer's parameters as a nested dict of arrays."""
        return None if self.model is None else functional(self.model)[1]
