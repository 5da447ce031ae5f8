"""Every contender on a network at every NFE: compiled in the background, sampled in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.batches import full_batches
from experiments.study.contenders import Contender, integrate, lose_first_call
from gmflow_jax import flow

BATCH_SIZE = 2000


class Network(NamedTuple):
    """velocity(params, x, t) over `num_dims` dimensions, and named params of one shape for it."""

    velocity: Callable
    num_dims: int
    variants: Mapping[str, Any]


class ContenderSamples(NamedTuple):
    """Samples [N, D] of a contender on a variant of the network."""

    variant: str
    contender: Contender
    nfe: int
    samples: np.ndarray


def start_noise(num_samples: int, num_dims: int, seed: int) -> np.ndarray:
    """The points [N, D] at t = 1 from which every solver starts."""
    return np.asarray(jax.random.normal(jax.random.key(seed), (num_samples, num_dims)))


def sweep(
    network: Network, contenders: Sequence[Contender], nfes: Sequence[int], x_1: np.ndarray, seed: int
) -> Iterator[ContenderSamples]:
    """All cells, as they are sampled; the next programs compile meanwhile.

    Every cell starts from x_1 [N, D] and draws its noise from the same keys.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(x_1)))
    max_steps = max(c.num_steps(nfe) for c in contenders for nfe in nfes)
    todo = [(c, *program) for c in contenders for program in c.programs(nfes)]

    def build(item):
        contender, solver, _ = item
        return _compile(network, contender, solver, min(BATCH_SIZE, len(x_1)), max_steps)

    with ThreadPoolExecutor(2) as pool:
        for (contender, _, served), program in zip(todo, pool.map(build, todo), strict=True):
            for nfe in served:
                num_steps = contender.num_steps(nfe)
                times = np.zeros(max_steps + 1, np.float32)
                times[: num_steps + 1] = flow.time_grid(num_steps)
                for variant, params in network.variants.items():
                    samples = _in_batches(program, params, keys, x_1, times, num_steps)
                    yield ContenderSamples(variant, contender, nfe, samples)


def _compile(network, contender, solver, batch_size, max_steps) -> Callable:
    def run(params, keys, x, times, num_steps):
        denoise = flow.denoiser(lambda x, t: network.velocity(params, x, t))
        if contender.loses_first_call:
            denoise = lose_first_call(denoise)
        return integrate(keys, denoise, x, solver, times, num_steps)

    params = next(iter(network.variants.values()))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
    x = jax.ShapeDtypeStruct((batch_size, network.num_dims), jnp.float32)
    times = jax.ShapeDtypeStruct((max_steps + 1,), jnp.float32)
    return jax.jit(run).lower(params, keys, x, times, jax.ShapeDtypeStruct((), jnp.int32)).compile()


def _in_batches(program, params, keys, x_1, times, num_steps) -> np.ndarray:
    batches = full_batches(len(x_1), min(BATCH_SIZE, len(x_1)))
    samples = [program(params, keys[i], x_1[i], times, np.int32(num_steps)) for i in batches]
    return np.concatenate(samples)[: len(x_1)]
