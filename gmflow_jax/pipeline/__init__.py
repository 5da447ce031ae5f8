"""Sampling of images by class: load published or trained networks once, then draw images."""

from gmflow_jax.pipeline._export import export_sampler
from gmflow_jax.pipeline._labels import label_ids
from gmflow_jax.pipeline._load import load, load_bundle
from gmflow_jax.pipeline._pipeline import Pipeline
from gmflow_jax.pipeline._sampler import Recipe, Sampler, to_uint8
from gmflow_jax.pipeline._usual import usual_recipe

__all__ = [
    "Pipeline", "Recipe", "Sampler", "export_sampler", "label_ids", "load", "load_bundle",
    "to_uint8", "usual_recipe",
]
