"""Known pixels of samples, which the solver completes: observed exactly, or replaced at each step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax import guidance, solvers

METHODS = ("observe", "replace")
_NOISE = 1000  # folded into a step's keys; the solvers fold in small numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
    """Known pixels of a batch of samples, in the network's space.

    Attributes:
      x_0: the known values, [B, *sample_shape]; values of unknown pixels have no effect.
      var: variance of the noise of the known values, [B, ...] without the channels: inf where a pixel is
        unknown, 0 where it is known exactly.
      method: "observe" for `guidance.observe`, or "replace" for `replace_known`, which ignores the noise.
    """

    x_0: ArrayLike
    var: ArrayLike
    method: str = dataclasses.field(default="observe", metadata={"static": True})

    def condition(self, denoise: Callable, solver: solvers.Solver) -> tuple[Callable, solvers.Solver]:
        """Return the denoiser and the solver that complete the known pixels."""
        if self.method == "observe":
            return guidance.observe(denoise, self.x_0, self.var), solver
        return denoise, replace_known(solver, self.x_0, jnp.isfinite(self.var))


def replace_known(solver: solvers.Solver, x_0: ArrayLike, known: ArrayLike) -> solvers.Solver:
    """Let a solver replace the known pixels after each step by x_0 with fresh noise of that time.

    It is the usual way to complete pictures with a network of means, and serves as a baseline.

    Args:
      solver: the solver. Its steps then need keys [B], one of each sample, even if it is deterministic.
      x_0: the known values, [B, ..., D].
      known: whether a pixel is known, of the rank of x_0 without D.

    Returns:
      The solver with the replacement.

    Source:
      Song et al. 2021 (arXiv 2011.13456), appendix I.2.
    """

    def step(key, denoise, x_t, t, s, state):
        x_s, state = solver.step(key, denoise, x_t, t, s, state)
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, _NOISE)
        noise = jax.vmap(lambda k: jax.random.normal(k, x_s.shape[1:], x_s.dtype))(keys)
        noised = (1 - s) * jnp.asarray(x_0, x_s.dtype) + s * noise
        return jnp.where(jnp.asarray(known)[..., None], noised, x_s), state

    return solvers.Solver(solver.init, step)
