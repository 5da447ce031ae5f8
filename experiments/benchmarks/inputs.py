"""Inputs of the benchmarks: values of flags, random networks and random mixtures."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from gmflow_jax import models
from gmflow_jax.gm import GaussianMixture

NETWORK_HELP = "such as DiT-S/2 or DiT-XL/2; tiny is a very small one, to try the program"

CFG_SCALE = 2.0  # any scale except 1, which is off; the time does not depend on it

# absl lists flags that are defined here in the --help of the program that calls `define_network_flags`.
flags.disclaim_key_flags()


def define_network_flags() -> Callable[..., models.GMDiTConfig]:
    """Define the flags of a network except its name; return config(name, **fields), which reads them."""
    holders = {
        "input_size": flags.DEFINE_integer("input_size", 32, "Height and width of a latent.", lower_bound=1),
        "num_components": flags.DEFINE_integer(
            "num_components", 8, "Components K of each mixture.", lower_bound=1
        ),
        "dtype": flags.DEFINE_enum(
            "dtype", "float32", ["float32", "bfloat16", "float16"], "Type that the blocks compute in."
        ),
        "attention": flags.DEFINE_enum(
            "attention", "auto", ["auto", "xla"], "Kind of attention; auto uses cuDNN's where it works."
        ),
        "depth": flags.DEFINE_integer("depth", None, "Blocks, if not those of --network.", lower_bound=1),
        "scan_layers": flags.DEFINE_bool(
            "scan_layers", True, "Whether the blocks run in a loop, which compiles faster."
        ),
    }

    def config(name: str, **fields: Any) -> models.GMDiTConfig:
        given = {key: holder.value for key, holder in holders.items()}
        fields |= {key: value for key, value in given.items() if value is not None}
        return network_config(name, **fields)

    return config


def whole_numbers(flag: flags.FlagHolder, smallest: int = 1) -> list[int]:
    """Return the values of a list flag.

    Raises:
      ValueError: if there are none, or one is not a whole number of at least `smallest`.
    """
    for text in flag.value:
        if not text.isdecimal() or int(text) < smallest:
            raise ValueError(f"--{flag.name} holds {text!r}; give whole numbers from {smallest} on.")
    if not flag.value:
        raise ValueError(f"--{flag.name} is empty; give at least one number.")
    return [int(text) for text in flag.value]


def network_config(name: str, **fields: Any) -> models.GMDiTConfig:
    """Return `models.gm_dit_config`, or a very small configuration for the name 'tiny'."""
    if name == "tiny":
        sizes = {"hidden_size": 16, "depth": 2, "num_heads": 2, "log_std_dim": 8}
        return models.GMDiTConfig(**sizes | fields)
    return models.gm_dit_config(name, **fields)


def random_network(network: type, config: Any) -> tuple[Callable[..., Any], Any]:
    """Return `models.functional` of a network with random weights."""
    draw = jax.jit(models.init_params, static_argnums=(0, 1))  # faster than an uncompiled call
    return models.abstract(network, config)[0], draw(network, config, jax.random.key(0))


def random_mixture(key: jax.Array, shape: tuple[int, int, int, int, int]) -> GaussianMixture:
    """Draw a mixture with means of shape [B, H, W, K, D], overlapping components and a log_std per sample."""
    means_key, weights_key = jax.random.split(key)
    return GaussianMixture(
        0.6 * jax.random.normal(means_key, shape),
        jax.nn.log_softmax(jax.random.normal(weights_key, shape[:-1])),
        jnp.full((shape[0], 1, 1), -1.0),
    )
