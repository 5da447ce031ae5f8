"""Gaussian mixtures: densities, moments, samples, products with Gaussians (`tilt`), and transport maps."""

from gmflow_jax.gm._moments import covariance, entropy, kl_divergence, log_prob, mean, moment_match, sample
from gmflow_jax.gm._policy import drop_components, temper
from gmflow_jax.gm._product import multiply, product, reweight
from gmflow_jax.gm._tilt import tilt
from gmflow_jax.gm._transport import from_standard_normal, to_standard_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture

__all__ = [
    "Gaussian", "GaussianMixture", "covariance", "drop_components", "entropy", "from_standard_normal",
    "kl_divergence", "log_prob", "mean", "moment_match", "multiply", "product", "reweight", "sample",
    "temper", "tilt", "to_standard_normal",
]
