"""The path between data and noise: interpolation, transitions, changes of variable, times and spectra."""

from gmflow_jax.flow._path import denoiser, forward_transition, interpolate, to_data, to_velocity
from gmflow_jax.flow._spectrum import spectral_coefficients, spectral_field
from gmflow_jax.flow._time import sample_time, time_grid
from gmflow_jax.flow._transition import posterior, posterior_mean, reverse_transition

__all__ = [
    "denoiser", "forward_transition", "interpolate", "posterior", "posterior_mean",
    "reverse_transition", "sample_time", "spectral_coefficients", "spectral_field",
    "time_grid", "to_data", "to_velocity",
]
