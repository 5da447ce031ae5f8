"""Weights to and from other programs."""

from gmflow_jax.interop._bundle import Bundle as Bundle
from gmflow_jax.interop._checkpoints import load_dit as load_dit
from gmflow_jax.interop._checkpoints import load_training as load_training
from gmflow_jax.interop._diffusers import load_diffusers as load_diffusers
from gmflow_jax.interop._diffusers import save_diffusers as save_diffusers
from gmflow_jax.interop._download import download as download
from gmflow_jax.interop._safetensors import load_safetensors as load_safetensors
from gmflow_jax.interop._safetensors import save_safetensors as save_safetensors
from gmflow_jax.interop._torch_params import autoencoder_from_torch as autoencoder_from_torch
from gmflow_jax.interop._torch_params import autoencoder_to_torch as autoencoder_to_torch
from gmflow_jax.interop._torch_params import gm_dit_from_torch as gm_dit_from_torch
from gmflow_jax.interop._torch_params import gm_dit_to_torch as gm_dit_to_torch
from gmflow_jax.interop._torch_params import gm_mlp_from_torch as gm_mlp_from_torch
from gmflow_jax.interop._torch_params import gm_mlp_to_torch as gm_mlp_to_torch
from gmflow_jax.interop._torch_params import spectrum_mlp_from_torch as spectrum_mlp_from_torch
from gmflow_jax.interop._torch_params import spectrum_mlp_to_torch as spectrum_mlp_to_torch
