"""A sampler that is compiled for the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from gmflow_jax.pipeline._sampler import Observation, Sampler


class CompiledSampler:
    """Sampler whose batches are split over the devices of a mesh. It compiles once for each shape.

    Args:
      sampler: the sampler.
      mesh: a mesh with the axis 'data'.
    """

    def __init__(self, sampler: Sampler, mesh: Mesh):
        self.times = sampler.times
        replicated, split = PartitionSpec(), PartitionSpec("data")
        inputs = (replicated, split, split, replicated)

        def over_devices(
            function: Callable,
            in_specs: tuple[PartitionSpec, ...],
            out_specs: PartitionSpec | tuple[PartitionSpec, ...] = split,
        ) -> Callable:
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
            )
            return jax.jit(mapped)

        # The last argument is an observation or None, for which jit compiles separate programs.
        step_inputs = (*inputs, replicated, replicated, split, split, split)
        self._start = over_devices(sampler.start, (*inputs, split))
        self._step = over_devices(sampler.step, step_inputs, (replicated, split, split))
        self._sample = over_devices(sampler.sample, (*inputs, replicated, split))
        self.images = over_devices(sampler.images, (replicated, split))
        self.encode = over_devices(sampler.encode, (replicated, split))

    def latents(
        self, inputs: tuple[Any, ...], times: jax.Array, bar: Any, observation: Observation | None = None
    ) -> jax.Array:
        """Draw the latents of a batch.

        If the arguments are on the devices, nothing else is sent there.

        Args:
          inputs: arguments of `Sampler.start`: parameters, keys, labels and guidance scale.
          times: times of the solver, [num_steps + 1].
          bar: tqdm bar. If it is shown, every step is a separate call and updates it; if it is disabled,
            all steps are one call.
          observation: observed latents and their variance, or None.

        Returns:
          [B, H, W, C].
        """
        if bar.disable:
            return self._sample(*inputs, times, observation)
        index = jax.device_put(jnp.int32(0), times.sharding)
        x, state = self._start(*inputs, observation)
        for _ in range(times.size - 1):
            index, x, state = self._step(*inputs, times, index, x, state, observation)
            jax.block_until_ready(x)  # so that the bar counts finished steps
            bar.update()
        return x
