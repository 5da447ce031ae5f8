"""Mixture algebra: densities, moments, samples, transport, and the tilt that everything is built on."""

from gmflow_jax.gm._moments import covariance as covariance
from gmflow_jax.gm._moments import entropy as entropy
from gmflow_jax.gm._moments import kl_divergence as kl_divergence
from gmflow_jax.gm._moments import log_prob as log_prob
from gmflow_jax.gm._moments import mean as mean
from gmflow_jax.gm._moments import moment_match as moment_match
from gmflow_jax.gm._moments import sample as sample
from gmflow_jax.gm._tilt import multiply as multiply
from gmflow_jax.gm._tilt import product as product
from gmflow_jax.gm._tilt import reweight as reweight
from gmflow_jax.gm._tilt import tilt as tilt
from gmflow_jax.gm._transport import from_standard_normal as from_standard_normal
from gmflow_jax.gm._transport import to_standard_normal as to_standard_normal
from gmflow_jax.gm._types import Gaussian as Gaussian
from gmflow_jax.gm._types import GaussianMixture as GaussianMixture
