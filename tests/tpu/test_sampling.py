"""Solvers, the transport, the pipeline and Inception compile for a TPU, and round no float32 product."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tqdm import tqdm

from gmflow_jax import gm, guidance, interop, models, pipeline, solvers
from gmflow_jax.pipeline._compiled import CompiledSampler
from tests.tpu import compiled

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPE = (8, 4, 4, 4)
# Of networks, blocks compute in the default precision.
BLOCKS = {"attention", "mlp", "modulation"}


def predict(scale):
    """Return a denoiser with four components at multiples of the state."""

    def denoise(x, t):
        factors = jnp.cos(scale * jnp.arange(1.0, 5.0)).reshape(1, 1, 1, 4, 1)
        means = x[..., None, :] * factors
        log_weights = jax.nn.log_softmax(jnp.sum(means, axis=-1) * t, axis=-1)
        return gm.GaussianMixture(means, log_weights, jnp.zeros((SHAPE[0], 1, 1)) - t)

    return denoise


def sample_with_all(key, x, times, apply, params):
    """Sample with every solver and order, with and without a spectrum and guidance."""
    conditional, unconditional = predict(1.0), predict(0.5)
    denoisers = {"not guided": conditional}
    for method, scale in {"probabilistic": 0.3, "cfg": 1.3}.items():
        denoisers[method] = guidance.guided_denoiser(conditional, unconditional, scale, method)
    results = {}
    for name in solvers.NAMES:
        for order in (1, 2) if name in ("gm_ode", "gm_sde") else (2,):
            for has_spectrum in (False, True) if name == "gm_sde" else (False,):
                spectrum = (lambda gaussian: apply(params, gaussian)) if has_spectrum else None
                solver = solvers.by_name(name, order, num_substeps=2, spectrum=spectrum)
                for guided, denoise in denoisers.items():
                    case = f"{name} {order} {has_spectrum} {guided}"
                    results[case] = solvers.sample(key, denoise, x, solver, times)
    return results


def test_every_solver_in_one_program():
    mesh = compiled.mesh_of(compiled.devices("v5e-8")[:1])
    apply, params = models.abstract(models.SpectrumMLP, models.SpectrumMLPConfig(4, 4))
    arguments = jax.eval_shape(
        lambda: (jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(3)),
    )
    program = jax.jit(sample_with_all, static_argnums=3)
    key, x, times, params = compiled.shapes((*arguments, params), mesh)
    lowered = program.lower(key, x, times, apply, params)
    count, rounded = compiled.products(lowered.compile())
    assert len(lowered.out_info) == 3 * (len(solvers.NAMES) + 4)
    assert count >= 6 * 5 and not rounded  # the spectrum's five products, in six samplers


@pytest.mark.parametrize("direction", ["to_standard_normal", "from_standard_normal"])
def test_the_transport(direction):
    mesh = compiled.mesh_of(compiled.devices("v4-8")[:1])
    q = gm.GaussianMixture(jnp.zeros((*SHAPE[:-1], 8, 4)), jnp.zeros((*SHAPE[:-1], 8)), jnp.zeros((8, 1, 1)))
    arguments = compiled.shapes((q, jnp.zeros(SHAPE)), mesh)
    program = jax.jit(getattr(gm, direction)).lower(*arguments).compile()
    count, rounded = compiled.products(program)
    assert count and not rounded


def test_the_pipeline_with_its_autoencoder():
    """Each device samples and decodes its own images, and sends nothing."""
    bundle = dataclasses.replace(
        interop.load_diffusers(GOLDEN / "networks" / "tiny_gmdit"),
        autoencoder=interop.load_diffusers(GOLDEN / "autoencoder").autoencoder,
    )
    mesh = compiled.mesh_of(compiled.devices("v5e-8"))
    sampler = CompiledSampler(pipeline.Sampler(bundle, pipeline.Recipe(), decode_batch_size=4), mesh)
    params = {name: models.functional(network)[1] for name, network in bundle.networks.items()}
    params, scale, times = compiled.shapes((params, jnp.float32(0.3), jnp.zeros(5)), mesh)
    keys, labels, latents = compiled.shapes(
        (jax.random.split(jax.random.key(0), 16), jnp.zeros(16, jnp.int32), jnp.zeros((16, 8, 8, 4))),
        mesh, "data",
    )  # fmt: skip

    @jax.jit
    def latents_of(*inputs, times):
        return sampler.latents(inputs, times, tqdm(disable=True))

    sample = latents_of.lower(params, keys, labels, scale, times=times).compile()
    count, rounded = compiled.products(sample)
    assert len(rounded) < count and set(rounded) <= BLOCKS, rounded
    images = sampler.images.lower(params, latents).compile()
    count, rounded = compiled.products(images)
    assert count >= 14 and not rounded
    for program in (sample, images):
        assert not compiled.collectives_of(program)


def test_inception():
    """With 8 images and little effort: 34 s of CPU time, but 174 s with one image on each of 8 devices."""
    from experiments.compiler import programs
    from experiments.configs import imagenet256_gmdit_s_k8

    config = imagenet256_gmdit_s_k8.get_config()
    program = programs.make("inception", config, compiled.devices("v5e-8")[:1], 8, programs.Sampling())
    little = dict(jax_exec_time_optimization_effort=-1.0, jax_memory_fitting_effort=-1.0)
    with compiled.settings(**little):
        inception = program.compile()
    count, rounded = compiled.products(inception)
    assert count >= 94 and not rounded
