"""The solvers that the study compares, each told how to spend a number of network calls."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from experiments.common.solver_choices import num_calls, paper_substeps
from gmflow_jax import solvers
from gmflow_jax.solvers import Memory, Solver


@dataclasses.dataclass(frozen=True)
class Contender:
    """A solver in the study.

    Attributes:
      name: what tables and figures call it.
      solver: one for all numbers of steps, or a function of the number of steps.
      stochastic: whether it samples instead of following the flow of the mean velocity.
      uses_mixture: whether it needs the predicted mixture; the others do with its mean.
      num_steps: steps from the network calls that are to be spent.
      num_calls: the calls that so many steps make.
      loses_first_call: whether the prediction at t = 1 is thrown away, see `lose_first_call`.
    """

    name: str
    solver: Solver | Callable[[int], Solver]
    stochastic: bool = False
    uses_mixture: bool = False
    num_steps: Callable[[int], int] = lambda nfe: nfe
    num_calls: Callable[[int], int] = lambda num_steps: num_steps
    loses_first_call: bool = False

    def programs(self, nfes: Sequence[int]) -> list[tuple[Solver, list[int]]]:
        """The solvers to compile, each with the NFEs that it serves."""
        if isinstance(self.solver, Solver):
            return [(self.solver, list(nfes))]
        return [(self.solver(self.num_steps(nfe)), [nfe]) for nfe in nfes]


def all_contenders() -> tuple[Contender, ...]:
    """All solvers, in the order of the tables."""
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
        dataclasses.replace(c, name=f"{c.name}{CALL_LOST}", loses_first_call=True)
        for c in plain
        if c.name in CALL_LOSERS
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


# The solvers that the paper runs through an adapter for variance-preserving schedules.
CALL_LOSERS = ("DPM++ 2M", "UniPC", "DPM++ 2M SDE")
CALL_LOST = ", call lost"
UNCONVERTED = "GM-ODE 2, no eq. 10"


def _gm_ode_of_paper(order: int, num_steps: int) -> Solver:
    return solvers.gm_ode(order, paper_substeps(num_steps, imagenet=False))


def lose_first_call(denoise: Callable) -> Callable:
    """`denoise` whose prediction at t = 1 is moved to 0, whatever the network says.

    So does an adapter that turns the velocity u into the noise prediction x_t + (1 - t) u and that back
    into x_0: at t = 1 the velocity drops out. The log-SNR that such an adapter gives t = 1 is not
    imitated: the solver keeps its own.
    """

    def lossy(x_t, t):
        q = denoise(x_t, t)
        return dataclasses.replace(q, means=jnp.where(t == 1, 0.0, q.means))

    return lossy


def unconverted_gm_ode(num_steps: int) -> Solver:
    """GM-ODE 2 that compares with the previous mixture as it was, not moved to the current point."""
    stepper = _gm_ode_of_paper(1, num_steps)

    def step(key, denoise, x_t, t, s, state):
        q = denoise(x_t, t)
        # Moving a mixture from a point to itself changes nothing.
        here = state._replace(x=x_t, t=jnp.full_like(state.t, t))
        extrapolated = solvers.second_order(q, here, x_t, t, s)
        x_s, _ = stepper.step(key, lambda x, t: extrapolated, x_t, t, s, ())
        return x_s, Memory(q, x_t, here.t, jnp.full_like(here.t, t - s))

    return Solver(solvers.gm_ode(2).init, step)


def integrate(
    keys: jax.Array, denoise: Callable, x_init: jax.Array, solver: Solver, times: jax.Array, num_steps
) -> jax.Array:
    """`solvers.sample` whose number of steps is a run-time value, so that one program serves all.

    `keys` holds one key for each sample; `times` at least num_steps + 1 times, the rest is padding.
    """
    fold_in = jax.vmap(jax.random.fold_in, (0, None))

    def body(i, carry):
        x, state = carry
        return solver.step(fold_in(keys, i), denoise, x, times[i], times[i + 1], state)

    return jax.lax.fori_loop(0, num_steps, body, (x_init, solver.init(denoise, x_init)))[0]
