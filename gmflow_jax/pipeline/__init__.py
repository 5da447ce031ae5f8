"""From class names to pictures: published or trained networks, loaded once and called many times."""

from gmflow_jax.pipeline._export import export_sampler as export_sampler
from gmflow_jax.pipeline._labels import label_ids as label_ids
from gmflow_jax.pipeline._pipeline import Pipeline as Pipeline
from gmflow_jax.pipeline._pipeline import load as load
from gmflow_jax.pipeline._pipeline import load_bundle as load_bundle
from gmflow_jax.pipeline._sampler import Recipe as Recipe
from gmflow_jax.pipeline._sampler import Sampler as Sampler
from gmflow_jax.pipeline._sampler import to_uint8 as to_uint8
