"""Pure functions from parameters, keys and labels to images, to be compiled, sharded or exported."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gmflow_jax import flow, guidance, solvers
from gmflow_jax._arguments import check_number, finite_number, whole_number
from gmflow_jax.interop import Bundle
from gmflow_jax.models import GMDiT, functional
from gmflow_jax.solvers._base import fold_in_keys

Params = dict[str, Any]
Observation = tuple[jax.Array, jax.Array]  # latents and their variance, see `guidance.observe`


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Options of a sampler that it is compiled for. The defaults are the authors' for 32 steps.

    Attributes:
      solver: a name in `solvers.NAMES`, or a `Solver`. Reuse one `Solver` object: a new one is compiled
        again. All leaves of its state must have the batch as their first axis.
      order: order of gm_ode and gm_sde, 1 or 2.
      num_substeps: number of sub-steps in each step of gm_ode and gm_pc. The paper takes
        max(128 // num_steps, 2) in gm_ode, so 4 for 32 steps, but 8 on ImageNet for 4 or 6 steps.
      guided: whether to use guidance, which needs a second prediction.
      guidance: `method` of `guidance.guided_denoiser`.
      orthogonal: `orthogonal` of `guidance.guided_denoiser`.
      spectrum: whether gm_sde draws its noise with the spectrum network; None uses it if the bundle has one.
      one_batch: True calls the network once for the classes and "no class" together, False twice.
    """

    solver: str | solvers.Solver = "gm_ode"
    order: int = 2
    num_substeps: int = 4
    guided: bool = True
    guidance: str = "probabilistic"
    orthogonal: float | None = None
    spectrum: bool | None = None
    one_batch: bool = True

    def __post_init__(self):
        # As numbers of Python, they are hashed, and compared by `is`, also if NumPy or JAX made them.
        for name in ("order", "num_substeps"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        if self.orthogonal is not None:
            orthogonal = finite_number("orthogonal", self.orthogonal)
            check_number("orthogonal", orthogonal, "[0, 1]")
            object.__setattr__(self, "orthogonal", orthogonal)
        for name in ("guided", "one_batch", "spectrum"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else bool(value))


class Sampler:
    """Sampler for the networks of a bundle. All its methods are pure functions.

    `params` is {'model': ..., 'spectrum': ..., 'autoencoder': ...}, the parameters of each network that
    the bundle holds. Sample i is drawn with keys[i] only. `guidance_scale` is ignored if the recipe is not
    guided. `observation` is None, or latents [B, H, W, C] and their variance [B, H, W], on which samples are
    conditioned as by `guidance.observe`.
    """

    def __init__(self, bundle: Bundle, recipe: Recipe, decode_batch_size: int | None = None):
        """Make the functions of the networks.

        Args:
          bundle: the networks. Their parameters are not kept.
          recipe: solver, guidance and their options.
          decode_batch_size: number of latents to decode, or images to encode, at a time, to bound memory;
            None is all at once.

        Raises:
          ValueError: if the bundle has no transformer, or an option of the recipe cannot work.
        """
        model = transformer_of(bundle)
        self._config, self._shift, self._recipe = model.config, bundle.shift, recipe
        self._decode_batch_size = decode_batch_size
        self._model = functional(model)[0]
        self._spectrum = _spectrum(bundle, recipe)
        if bundle.autoencoder is not None:
            self._encode = functional(bundle.autoencoder, "encode")[0]
            self._decode = functional(bundle.autoencoder, "decode")[0]
            self._scaling_factor = bundle.autoencoder.config.scaling_factor
        self._solver(None)  # raises here if the solver is unknown

    def start(
        self,
        params: Params,
        keys: jax.Array,
        labels: jax.Array,
        guidance_scale: jax.Array,
        observation: Observation | None = None,
    ) -> tuple[jax.Array, Any]:
        """Draw the initial noise and initialise the solver.

        Args:
          params: parameters of the networks.
          keys: PRNG keys, [B].
          labels: class ids, [B].
          guidance_scale: scale of the guidance.
          observation: observed latents and their variance.

        Returns:
          The noise [B, H, W, C], and the solver's state.
        """
        x = self._noise(keys)
        denoise = self._denoiser(params, labels, guidance_scale, observation)
        return x, self._solver(params).init(denoise, x)

    def step(
        self,
        params: Params,
        keys: jax.Array,
        labels: jax.Array,
        guidance_scale: jax.Array,
        times: jax.Array,
        index: jax.Array,
        x: jax.Array,
        state: Any,
        observation: Observation | None = None,
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Make one step of the solver, from times[index] to times[index + 1].

        Args:
          params: parameters of the networks.
          keys: PRNG keys, [B].
          labels: class ids, [B].
          guidance_scale: scale of the guidance.
          times: times of all steps, [num_steps + 1].
          index: index of the step, an int32 scalar.
          x: latents at times[index], [B, H, W, C].
          state: the solver's state.
          observation: observed latents and their variance.

        Returns:
          index + 1, the latents at the next time, and the new state.
        """
        denoise = self._denoiser(params, labels, guidance_scale, observation)
        step_keys = fold_in_keys(fold_in_keys(keys, 1), index)
        x, state = self._solver(params).step(step_keys, denoise, x, times[index], times[index + 1], state)
        return index + 1, x, state

    def images(self, params: Params, x: jax.Array) -> jax.Array:
        """Decode latents [B, h, w, C] to uint8 images [B, H, W, 3]."""
        size = self._num_at_a_time(x.shape[0])
        decoded = self._decode(params["autoencoder"], x / self._scaling_factor, batch_size=size)
        return to_uint8(decoded)

    def encode(self, params: Params, images: jax.Array) -> jax.Array:
        """Encode uint8 images [B, H, W, 3] to latents [B, h, w, C], the means of their Gaussians."""
        size = self._num_at_a_time(images.shape[0])
        pixels = images.astype(jnp.float32) / 127.5 - 1
        return self._encode(params["autoencoder"], pixels, batch_size=size)[0] * self._scaling_factor

    def _num_at_a_time(self, num_images: int) -> int | None:
        # A divisor of the batch size, because a remainder would be compiled separately.
        limit = self._decode_batch_size
        return limit and max(n for n in range(1, limit + 1) if num_images % n == 0)

    def sample(
        self,
        params: Params,
        keys: jax.Array,
        labels: jax.Array,
        guidance_scale: jax.Array,
        times: jax.Array,
        observation: Observation | None = None,
    ) -> jax.Array:
        """Draw latents, as `start` and then one `step` per pair of times would.

        Args:
          params: parameters of the networks.
          keys: PRNG keys, [B].
          labels: class ids, [B].
          guidance_scale: scale of the guidance.
          times: times of all steps, [num_steps + 1].
          observation: observed latents and their variance.

        Returns:
          The latents, [B, H, W, C].
        """
        x = self._noise(keys)
        denoise = self._denoiser(params, labels, guidance_scale, observation)
        return solvers.sample(fold_in_keys(keys, 1), denoise, x, self._solver(params), times)

    def times(self, num_steps: int) -> jax.Array:
        """Return the times of `num_steps` steps, [num_steps + 1], from 1 to 0."""
        return flow.time_grid(num_steps, self._shift)

    def _noise(self, keys: jax.Array) -> jax.Array:
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

    def _denoiser(
        self,
        params: Params,
        labels: jax.Array,
        guidance_scale: jax.Array,
        observation: Observation | None,
    ) -> Callable:
        denoise = self._guided(params, labels, guidance_scale)
        return denoise if observation is None else guidance.observe(denoise, *observation)

    def _guided(self, params: Params, labels: jax.Array, guidance_scale: jax.Array) -> Callable:
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


def to_uint8(images: jax.Array) -> jax.Array:
    """Convert images in [-1, 1] to uint8. Other values are clipped; halves are rounded up."""
    return jnp.floor(255 * jnp.clip(images / 2 + 0.5, 0, 1) + 0.5).astype(jnp.uint8)


def transformer_of(bundle: Bundle) -> GMDiT:
    """Return the transformer of a bundle.

    Raises:
      ValueError: if there is none.
    """
    if bundle.model is None:
        raise ValueError(
            "The bundle has no transformer, so there is nothing to sample from; load a folder that has one."
        )
    return bundle.model


def _spectrum(bundle: Bundle, recipe: Recipe) -> Callable[..., Any] | None:
    """Return the spectrum network as a function of its parameters, or None if the recipe uses none."""
    if recipe.spectrum is False or (recipe.spectrum is None and bundle.spectrum is None):
        return None
    if recipe.solver != "gm_sde":
        if recipe.spectrum:
            raise ValueError(f"Only gm_sde draws with a spectrum, not {recipe.solver}; leave out spectrum.")
        return None
    if bundle.spectrum is None:
        raise ValueError("The bundle has no spectrum network (no folder spectrum_net/); leave out spectrum.")
    return functional(bundle.spectrum)[0]
