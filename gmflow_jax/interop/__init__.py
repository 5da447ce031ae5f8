"""Loading and saving of weights: diffusers folders, PyTorch state dicts, safetensors files."""

from gmflow_jax.interop._bundle import Bundle, init_bundle
from gmflow_jax.interop._checkpoints import load_dit, load_training
from gmflow_jax.interop._diffusers import load_diffusers, read_num_calls, save_diffusers
from gmflow_jax.interop._download import download
from gmflow_jax.interop._inception import load_inception
from gmflow_jax.interop._safetensors import load_safetensors, save_safetensors
from gmflow_jax.interop._torch_params import (
    autoencoder_from_torch,
    autoencoder_to_torch,
    gm_dit_from_torch,
    gm_dit_to_torch,
    gm_mlp_from_torch,
    gm_mlp_to_torch,
    spectrum_mlp_from_torch,
    spectrum_mlp_to_torch,
)

__all__ = [
    "Bundle", "autoencoder_from_torch", "autoencoder_to_torch", "download", "gm_dit_from_torch",
    "gm_dit_to_torch", "gm_mlp_from_torch", "gm_mlp_to_torch", "init_bundle", "load_diffusers",
    "load_dit", "load_inception", "load_safetensors", "load_training", "read_num_calls",
    "save_diffusers", "save_safetensors", "spectrum_mlp_from_torch", "spectrum_mlp_to_torch",
]
