"""Pure functions from parameters, keys and labels to images: what is compiled, sharded and exported."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gmflow_jax import flow, guidance, solvers
from gmflow_jax.interop import Bundle
from gmflow_jax.models import functional
from gmflow_jax.solvers._base import fold_in_keys

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a sampler is compiled for; the defaults are the authors'.

    Attributes:
      solver: One of `solvers.NAMES`, or a `Solver`: make it once, for each is compiled anew. The leaves
        of its state must lead with the batch.
      order: Of gm_ode and gm_sde.
      num_substeps: Sub-steps in each step of gm_ode and gm_pc.
      guided: Whether there is guidance, which takes a second prediction.
      guidance, orthogonal: `method` and `orthogonal` of `guidance.guided_denoiser`.
      spectrum: Whether gm_sde draws with the spectrum network; None if there is one.
      one_batch: Whether guidance calls the network once, on classes and "no class" together, or twice.
    """

    solver: str | solvers.Solver = "gm_ode"
    order: int = 2
    num_substeps: int = 4
    guided: bool = True
    guidance: str = "probabilistic"
    orthogonal: float = 1.0
    spectrum: bool | None = None
    one_batch: bool = True


class Sampler:
    """Sampling with the networks of a bundle by a recipe; every method is pure.

    `params` is {'model': ..., 'spectrum': ..., 'autoencoder': ...} with those that there are. Sample i
    of the arguments is drawn from keys[i] alone.
    """

    def __init__(self, bundle: Bundle, recipe: Recipe, decode_batch_size: int | None = None):
        self._config, self._shift, self._recipe = bundle.config, bundle.shift, recipe
        self._decode_batch_size = decode_batch_size
        self._model = functional(bundle.model)[0]
        self._spectrum = _spectrum(bundle, recipe)
        if bundle.autoencoder is not None:
            self._decode = functional(bundle.autoencoder, "decode")[0]
            self._scaling_factor = bundle.autoencoder.config.scaling_factor
        self._solver(None)  # an unknown name is an error now

    def start(self, params: Params, keys: Array, labels: Array, guidance_scale: Array):
        """Noise [B, H, W, C], and the solver's state."""
        x = self._noise(keys)
        denoise = self._denoiser(params, labels, guidance_scale)
        return x, self._solver(params).init(denoise, x)

    def step(self, params, keys, labels, guidance_scale, times, index, x, state):
        """One step of the solver, from times[index] to the next; gives index + 1, x and the state."""
        denoise = self._denoiser(params, labels, guidance_scale)
        step_keys = fold_in_keys(fold_in_keys(keys, 1), index)
        x, state = self._solver(params).step(step_keys, denoise, x, times[index], times[index + 1], state)
        return index + 1, x, state

    def images(self, params: Params, x: Array) -> Array:
        """uint8 images [B, H, W, 3] of latents."""
        # A divisor: the rest of a batch would be compiled apart.
        limit = self._decode_batch_size
        size = limit and max(n for n in range(1, limit + 1) if x.shape[0] % n == 0)
        decoded = self._decode(params["autoencoder"], x / self._scaling_factor, batch_size=size)
        return to_uint8(decoded)

    def sample(self, params: Params, keys: Array, labels: Array, guidance_scale: Array, times: Array):
        """Latents in one go: the same as `start` and then `step` for each of the times but the last."""
        x = self._noise(keys)
        denoise, solver = self._denoiser(params, labels, guidance_scale), self._solver(params)
        return solvers.sample(fold_in_keys(keys, 1), denoise, x, solver, times)

    def times(self, num_steps: int) -> Array:
        """The times of that many steps, [num_steps + 1], from 1 to 0."""
        return flow.time_grid(num_steps, self._shift)

    def _noise(self, keys: Array) -> Array:
        shape = (*self._config.input_height_width, self._config.in_channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(fold_in_keys(keys, 0))

    def _solver(self, params: Params | None) -> solvers.Solver:
        recipe = self._recipe
        if isinstance(recipe.solver, solvers.Solver):
            return recipe.solver
        spectrum = None
        if self._spectrum is not None and params is not None:
            spectrum = functools.partial(self._spectrum, params["spectrum"])
        return solvers.by_name(
            recipe.solver, recipe.order, recipe.num_substeps, self._shift, spectrum=spectrum
        )

    def _denoiser(self, params: Params, labels: Array, guidance_scale: Array):
        def predict(x_t, t, labels):
            return flow.denoiser(lambda x, t: self._model(params["model"], x, t, labels))(x_t, t)

        def of(labels):
            return lambda x_t, t: predict(x_t, t, labels)

        recipe = self._recipe
        if not recipe.guided:
            return of(labels)
        null = jnp.full_like(labels, self._config.num_classes)
        if recipe.one_batch:
            both = guidance.in_one_batch(predict, labels, null), None
        else:
            both = of(labels), of(null)
        return guidance.guided_denoiser(*both, guidance_scale, recipe.guidance, recipe.orthogonal)


def to_uint8(images: Array) -> Array:
    """Images of [-1, 1], clipped to it, as uint8, rounded half up."""
    return jnp.floor(255 * jnp.clip(images / 2 + 0.5, 0, 1) + 0.5).astype(jnp.uint8)


def _spectrum(bundle: Bundle, recipe: Recipe):
    """The spectrum network as a function of its parameters, where the recipe draws with it."""
    if recipe.spectrum is False or (recipe.spectrum is None and bundle.spectrum is None):
        return None
    if recipe.solver != "gm_sde":
        if recipe.spectrum:
            raise ValueError(f"Only gm_sde draws with a spectrum, not {recipe.solver}; leave it out.")
        return None
    if bundle.spectrum is None:
        raise ValueError("These networks have no spectrum network (no folder spectrum_net/); leave it out.")
    return functional(bundle.spectrum)[0]
