"""Samples of all contenders on a network: compiled in the background, drawn in batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.batches import full_batches
from experiments.study.contenders import Contender, drop_first_call, integrate
from gmflow_jax import flow

BATCH_SIZE = 2000


class Network(NamedTuple):
    """A network with parameters of several variants.

    Attributes:
      velocity: velocity(params, x [N, D], t) -> mixture.
      num_dims: number of dimensions D.
      variants: {name: params}, all of the same shapes.
    """

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
    """Draw the points at t = 1 from which every solver starts.

    Args:
      num_samples: number of points N.
      num_dims: number of dimensions D.
      seed: seed of the noise.

    Returns:
      Standard normal noise [N, D].
    """
    return np.asarray(jax.random.normal(jax.random.key(seed), (num_samples, num_dims)))


def sweep(
    network: Network, contenders: Sequence[Contender], nfes: Sequence[int], x_1: np.ndarray, seed: int
) -> Iterator[ContenderSamples]:
    """Draw samples of every contender at every NFE on every variant of a network.

    The samplers that come next compile while one draws. All start from the same points and draw their noise
    with the same keys.

    Args:
      network: the network.
      contenders: the solvers.
      nfes: numbers of network calls.
      x_1: points at t = 1, [N, D].
      seed: seed of the noise of SDE solvers.

    Yields:
      The samples, ordered by contender, NFE and variant.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(x_1)))
    max_steps = max(c.num_steps(nfe) for c in contenders for nfe in nfes)
    jobs = [(c, *program) for c in contenders for program in c.programs(nfes)]

    def build(job):
        contender, solver, _ = job
        return _compile(network, contender, solver, min(BATCH_SIZE, len(x_1)), max_steps)

    with ThreadPoolExecutor(2) as pool:
        for (contender, _, job_nfes), program in zip(jobs, pool.map(build, jobs), strict=True):
            for nfe in job_nfes:
                num_steps = contender.num_steps(nfe)
                times = np.zeros(max_steps + 1, np.float32)
                times[: num_steps + 1] = flow.time_grid(num_steps)
                for variant, params in network.variants.items():
                    samples = _in_batches(program, params, keys, x_1, times, num_steps)
                    yield ContenderSamples(variant, contender, nfe, samples)


def _compile(network, contender, solver, batch_size, max_steps) -> Callable:
    def run(params, keys, x, times, num_steps):
        denoise = flow.denoiser(lambda x, t: network.velocity(params, x, t))
        if contender.drops_first_call:
            denoise = drop_first_call(denoise)
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
