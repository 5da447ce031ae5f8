"""The path between data and noise: interpolation, transitions, changes of variable, times, spectra."""

from gmflow_jax.flow._path import denoiser as denoiser
from gmflow_jax.flow._path import forward_transition as forward_transition
from gmflow_jax.flow._path import interpolate as interpolate
from gmflow_jax.flow._path import posterior as posterior
from gmflow_jax.flow._path import posterior_mean as posterior_mean
from gmflow_jax.flow._path import reverse_transition as reverse_transition
from gmflow_jax.flow._path import to_data as to_data
from gmflow_jax.flow._path import to_velocity as to_velocity
from gmflow_jax.flow._spectrum import spectral_coefficients as spectral_coefficients
from gmflow_jax.flow._spectrum import spectral_field as spectral_field
from gmflow_jax.flow._time import sample_time as sample_time
from gmflow_jax.flow._time import time_from_draw as time_from_draw
from gmflow_jax.flow._time import time_grid as time_grid
