"""The path between data and noise: interpolation, transitions, changes of variable, times and spectra.

The convention of this library is x_t = (1 - t) x_0 + t noise, with data at t = 0, noise at t = 1 and the
velocity u = noise - x_0. A network `net` with data at t = 1 and the velocity x_0 - noise is passed as
`lambda x, t: -net(x, 1 - t)`.
"""

from gmflow_jax.flow._path import denoiser, forward_transition, interpolate, to_data, to_velocity
from gmflow_jax.flow._policy import follow_policy, policy_velocity
from gmflow_jax.flow._spectrum import spectral_coefficients, spectral_field
from gmflow_jax.flow._time import sample_time, time_grid
from gmflow_jax.flow._transition import posterior, posterior_mean, reverse_transition

__all__ = [
    "denoiser", "follow_policy", "forward_transition", "interpolate", "policy_velocity", "posterior",
    "posterior_mean", "reverse_transition", "sample_time", "spectral_coefficients", "spectral_field",
    "time_grid", "to_data", "to_velocity",
]
