"""The path between data and noise: interpolation, transitions, changes of variable, times and spectra.

The convention of this library is x_t = (1 - t) x_0 + t noise, with data at t = 0, noise at t = 1 and the
velocity u = noise - x_0. `denoiser` adapts networks of other conventions: data at t = 1, predictions of x_0,
noise or score, times [B] or 1000 t, and variance-preserving schedules.
"""

from gmflow_jax.flow._denoiser import denoiser
from gmflow_jax.flow._path import forward_transition, interpolate, to_data, to_velocity
from gmflow_jax.flow._policy import follow_policy, policy_velocity
from gmflow_jax.flow._spectrum import spectral_coefficients, spectral_field
from gmflow_jax.flow._time import sample_time, time_grid
from gmflow_jax.flow._transition import posterior, posterior_mean, reverse_transition

__all__ = [
    "denoiser", "follow_policy", "forward_transition", "interpolate", "policy_velocity", "posterior",
    "posterior_mean", "reverse_transition", "sample_time", "spectral_coefficients", "spectral_field",
    "time_grid", "to_data", "to_velocity",
]
