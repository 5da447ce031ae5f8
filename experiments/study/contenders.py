"""The solvers that the study compares, and how each spends a given number of network calls."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from experiments.common.solver_choices import num_calls, paper_substeps
from gmflow_jax import solvers
from gmflow_jax.solvers import Memory, Solver

# The solvers that the paper runs through an adapter for variance-preserving schedules, and the suffix of
# their names when the study imitates this adapter.
ADAPTED_SOLVERS = ("DPM++ 2M", "UniPC", "DPM++ 2M SDE")
ADAPTED = ", call lost"
UNCONVERTED = "GM-ODE 2, no eq. 10"


@dataclasses.dataclass(frozen=True)
class Contender:
    """A solver in the study.

    Attributes:
      name: name in tables and figures.
      solver: a solver for all numbers of steps, or a function from the number of steps to a solver.
      stochastic: whether it is an SDE solver; the others follow the flow of the mean velocity.
      uses_mixture: whether it needs the predicted mixture; the others use only its mean.
      num_steps: function from the number of network calls to spend to the number of steps.
      num_calls: function from the number of steps to the number of network calls.
      drops_first_call: whether the prediction at t = 1 is discarded, see `drop_first_call`.
    """

    name: str
    solver: Solver | Callable[[int], Solver]
    stochastic: bool = False
    uses_mixture: bool = False
    num_steps: Callable[[int], int] = lambda nfe: nfe
    num_calls: Callable[[int], int] = lambda num_steps: num_steps
    drops_first_call: bool = False

    def programs(self, nfes: Sequence[int]) -> list[tuple[Solver, list[int]]]:
        """Return the solvers to compile, each with the numbers of network calls for which it is used."""
        if isinstance(self.solver, Solver):
            return [(self.solver, list(nfes))]
        return [(self.solver(self.num_steps(nfe)), [nfe]) for nfe in nfes]


def all_contenders() -> tuple[Contender, ...]:
    """Return all solvers, in the order of the tables."""
    plain = (
        Contender("Euler", solvers.euler()),
        Contender(
            "Heun",
            solvers.heun(),
            num_steps=lambda nfe: -(-(nfe + 1) // 2),
            num_calls=functools.partial(num_calls, "heun"),
        ),
        Contender("AB2", solvers.ab2()),
        Contender("DPM++ 2M", solvers.dpmpp_2m()),
        Contender("UniPC", solvers.unipc()),
        Contender("DDPM small", solvers.ddpm("small"), stochastic=True),
        Contender("DDPM large", solvers.ddpm("large"), stochastic=True),
        Contender("DPM++ 2M SDE", solvers.dpmpp_2m_sde(), stochastic=True),
    )
    adapted = tuple(
        dataclasses.replace(c, name=f"{c.name}{ADAPTED}", drops_first_call=True)
        for c in plain
        if c.name in ADAPTED_SOLVERS
    )
    mixture = (
        Contender("GM-ODE 1", functools.partial(_gm_ode_of_paper, 1), uses_mixture=True),
        Contender("GM-ODE 2", functools.partial(_gm_ode_of_paper, 2), uses_mixture=True),
        Contender(UNCONVERTED, unconverted_gm_ode, uses_mixture=True),
        Contender("GM-PC", solvers.gm_pc(), uses_mixture=True),
        Contender("GM-SDE 1", solvers.gm_sde(1), stochastic=True, uses_mixture=True),
        Contender("GM-SDE 2", solvers.gm_sde(2), stochastic=True, uses_mixture=True),
    )
    return mixture + plain + adapted


def _gm_ode_of_paper(order: int, num_steps: int) -> Solver:
    return solvers.gm_ode(order, paper_substeps(num_steps, imagenet=False))


def drop_first_call(denoise: Callable) -> Callable:
    """Return `denoise` with the means at t = 1 replaced by 0.

    This is the effect of an adapter that converts the velocity u into the noise prediction x_t + (1 - t) u,
    and this into x_0: at t = 1 the velocity drops out. The adapter's log-SNR at t = 1 is not imitated; the
    solver uses its own.
    """

    def without_first_call(x_t, t):
        q = denoise(x_t, t)
        return dataclasses.replace(q, means=jnp.where(t == 1, 0.0, q.means))

    return without_first_call


def unconverted_gm_ode(num_steps: int) -> Solver:
    """Return GM-ODE 2 without eq. 10: the previous mixture is not moved to the current point."""
    stepper = _gm_ode_of_paper(1, num_steps)

    def step(key, denoise, x_t, t, s, state):
        q = denoise(x_t, t)
        # `second_order` moves the mixture from the point in `state` to x_t, which then has no effect.
        here = state._replace(x=x_t, t=jnp.full_like(state.t, t))
        extrapolated = solvers.second_order(q, here, x_t, t, s)
        x_s, _ = stepper.step(key, lambda x, t: extrapolated, x_t, t, s, ())
        return x_s, Memory(q, x_t, here.t, jnp.full_like(here.t, t - s))

    return Solver(solvers.gm_ode(2).init, step)


def integrate(
    keys: jax.Array,
    denoise: Callable,
    x_init: jax.Array,
    solver: Solver,
    times: jax.Array,
    num_steps: int | jax.Array,
) -> jax.Array:
    """Run a solver, as `solvers.sample` does, for a number of steps that is known only at run time.

    `solvers.sample` is compiled anew for each number of steps; here one compiled program serves all.

    Args:
      keys: a key for each sample, [N].
      denoise: denoise(x_t, t) -> mixture over x_0.
      x_init: samples at times[0], [N, D].
      solver: the solver.
      times: decreasing times. The first num_steps + 1 are used; the rest is padding.
      num_steps: number of steps.

    Returns:
      Samples at times[num_steps], [N, D].
    """
    fold_in = jax.vmap(jax.random.fold_in, (0, None))

    def body(i, carry):
        x, state = carry
        return solver.step(fold_in(keys, i), denoise, x, times[i], times[i + 1], state)

    return jax.lax.fori_loop(0, num_steps, body, (x_init, solver.init(denoise, x_init)))[0]
