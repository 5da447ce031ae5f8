"""The pipeline against the library's parts, and independent of batches, devices and progress."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, guidance, interop, pipeline, solvers

ASKED = {"num_steps": 2, "num_substeps": 2, "progress": False}


@pytest.fixture(scope="module")
def pipe(bundle):
    return pipeline.Pipeline(bundle)


@pytest.fixture(scope="module")
def latents(pipe):
    """Of three images by the default solver."""
    return pipe([0, 5, 1], decode=False, **ASKED)


def draws(seed, num_images, shape):
    """The noise and the steps' key of each image, as documented: fold_in of the seed's key by the image."""
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(num_images)]
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, 0), shape) for key in keys])
    return noise, jnp.stack([jax.random.fold_in(key, 1) for key in keys])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("gm_ode", lambda spectrum: solvers.gm_ode(2, 2)),
        ("gm_sde", lambda spectrum: solvers.gm_sde(2, spectrum)),
    ],
)
def test_latents_are_those_of_the_solver_on_the_guided_network(pipe, bundle, name, make):
    """The scan of `solvers.sample` against steps compiled one by one: within 1e-4."""
    labels = jnp.asarray([0, 5, 1])
    noise, keys = draws(3, 3, (8, 8, 4))

    def denoiser(labels):
        return flow.denoiser(lambda x, t: bundle.model(x, t, labels))

    denoise = guidance.guided_denoiser(denoiser(labels), denoiser(jnp.full_like(labels, 10)), 0.3)
    solver = make(bundle.spectrum)
    expected = jax.jit(lambda x: solvers.sample(keys, denoise, x, solver, flow.time_grid(2)))(noise)
    found = pipe([0, 5, 1], solver=name, guidance_scale=0.3, seed=3, decode=False, **ASKED)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_images_are_decoded_latents(pipe, bundle, latents):
    images = pipe([0, 5, 1], **ASKED)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    decoded = bundle.autoencoder.decode(jnp.asarray(latents) / 0.18215)
    np.testing.assert_allclose(images, 255 * jnp.clip((decoded + 1) / 2, 0, 1), atol=0.501)


def test_an_image_depends_on_its_seed_number_and_label_alone(bundle, pipe, latents):
    """Not on the batch or the devices: within 1e-5 of the four devices' and the batch of three."""
    single = pipeline.Pipeline(bundle, devices=jax.devices()[:1])
    for size in (None, 1, 2):
        np.testing.assert_allclose(
            single([0, 5, 1], decode=False, batch_size=size, **ASKED), latents, atol=1e-5
        )
    more = pipe(["jay", "5", "magpie", 9, 9, 2], decode=False, batch_size=4, **ASKED)
    np.testing.assert_allclose(more[:3], latents, atol=1e-5)
    assert np.abs(more[3] - more[4]).max() > 0.1
    assert np.abs(pipe([0, 5, 1], decode=False, seed=1, **ASKED) - latents).max() > 0.1


def test_each_shape_is_compiled_once(bundle, monkeypatch):
    count = 0
    step = pipeline._sampler.Sampler.step

    def counted(*arguments):
        nonlocal count
        count += 1
        return step(*arguments)

    monkeypatch.setattr(pipeline._sampler.Sampler, "step", counted)
    pipe = pipeline.Pipeline(bundle, devices=jax.devices()[:1])
    for labels, options in (
        ([1, 2], {}),
        ([3, 4], {"seed": 7, "guidance_scale": 0.2}),
        ([3, 4, 5], {"batch_size": 2, "num_steps": 3}),
    ):
        pipe(labels, decode=False, **ASKED | options)
    assert count == 1
    pipe([1], decode=False, **ASKED)
    assert count == 2


def test_guidance_and_spectrum_change_the_images(pipe, latents):
    off, on = (pipe([0, 5, 1], decode=False, guidance_scale=w, **ASKED) for w in (0.0, 0.45))
    np.testing.assert_array_equal(on, latents)
    assert np.abs(off - on).max() > 0.1
    drawn, independent = (
        pipe([0, 5, 1], decode=False, solver="gm_sde", spectrum=spectrum, **ASKED)
        for spectrum in (True, False)
    )
    assert np.abs(drawn - independent).max() > 0.1


def test_a_solver_of_ones_own_is_taken(pipe):
    named = pipe([1, 2], solver="heun", decode=False, **ASKED)
    given = pipe([1, 2], solver=solvers.heun(), decode=False, **ASKED)
    np.testing.assert_array_equal(named, given)


def test_the_bar_counts_the_steps_of_all_batches(pipe, capsys):
    pipe([0, 1, 2, 3, 4], batch_size=4, **ASKED | {"progress": True})
    assert "4/4" in capsys.readouterr().err


def test_load_keeps_the_shift_and_the_type(bundle, tmp_path):
    shifted = dataclasses.replace(bundle, shift=2.0, spectrum=None)
    interop.save_diffusers(tmp_path / "out", shifted)
    pipe = pipeline.load(tmp_path / "out", dtype="bfloat16")
    assert pipe.bundle.config.param_dtype == "bfloat16" and pipe.id2label == bundle.id2label
    assert pipe.bundle.config.dtype == "float32"  # on a CPU
    loaded = pipeline.load(tmp_path / "out")([1], decode=False, **ASKED)
    np.testing.assert_allclose(
        loaded, pipeline.Pipeline(shifted)([1], decode=False, **ASKED), atol=1e-4
    )
    assert np.abs(loaded - pipeline.Pipeline(bundle)([1], decode=False, **ASKED)).max() > 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": [10]}, "out of range"),
        ({"labels": []}, "number of labels is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_scale": 1.0}, "guidance"),
        ({"solver": "magic"}, "no solver 'magic'"),
        ({"order": 3}, "order must be 1 or 2"),
        ({"num_substeps": 0}, "num_substeps"),
    ],
)
def test_options_that_cannot_work_are_refused(pipe, options, said):
    with pytest.raises(ValueError, match=said):
        pipe(**{"labels": [1]} | ASKED | options)


def test_missing_networks_are_named(bundle):
    with pytest.raises(ValueError, match="no transformer"):
        pipeline.Pipeline(dataclasses.replace(bundle, model=None))
    without = pipeline.Pipeline(dataclasses.replace(bundle, autoencoder=None))
    with pytest.raises(ValueError, match=r"no autoencoder .no folder vae/.*decode=False"):
        without([1], **ASKED)
