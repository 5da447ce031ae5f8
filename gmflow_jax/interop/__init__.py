"""Weights to and from other programs."""

from gmflow_jax.interop._safetensors import load_safetensors as load_safetensors
from gmflow_jax.interop._safetensors import save_safetensors as save_safetensors
from gmflow_jax.interop._torch_params import gm_dit_from_torch as gm_dit_from_torch
from gmflow_jax.interop._torch_params import gm_dit_to_torch as gm_dit_to_torch
from gmflow_jax.interop._torch_params import gm_mlp_from_torch as gm_mlp_from_torch
from gmflow_jax.interop._torch_params import gm_mlp_to_torch as gm_mlp_to_torch
from gmflow_jax.interop._torch_params import spectrum_mlp_from_torch as spectrum_mlp_from_torch
from gmflow_jax.interop._torch_params import spectrum_mlp_to_torch as spectrum_mlp_to_torch
