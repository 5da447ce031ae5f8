"""The pipeline against the library's parts, and its independence of batches, devices and progress bars."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, guidance, interop, models, pipeline, solvers

# Where the solver does not matter, the one that compiles fastest.
ASKED = {"num_steps": 2, "solver": "euler", "decode": False, "progress": False}


@pytest.fixture(scope="module")
def latents(single):
    return single([0, 5, 1], **ASKED)


def draws(seed, num_images, shape):
    """Return the noise and the key of each image as documented: fold_in of the seed's key by the image."""
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(num_images)]
    noise = jnp.stack([jax.random.normal(jax.random.fold_in(key, 0), shape) for key in keys])
    return noise, jnp.stack([jax.random.fold_in(key, 1) for key in keys])


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"num_substeps": 2}, lambda spectrum: solvers.gm_ode(2, 2)),
        ({"solver": "gm_sde", "order": 1}, lambda spectrum: solvers.gm_sde(1, spectrum)),
        pytest.param(
            {"solver": "gm_sde", "spectrum": False},
            lambda spectrum: solvers.gm_sde(2),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_latents_equal_those_of_the_solver_on_the_guided_network(single, bundle, options, make):
    """The scan of `solvers.sample` against steps compiled one by one: within 1e-4."""
    labels = jnp.asarray([0, 5, 1])
    noise, keys = draws(3, 3, (8, 8, 4))

    def denoiser(labels):
        return flow.denoiser(lambda x, t: bundle.model(x, t, labels))

    denoise = guidance.guided_denoiser(denoiser(labels), denoiser(jnp.full_like(labels, 10)), 0.3)
    solver = make(bundle.spectrum)
    expected = jax.jit(lambda x: solvers.sample(keys, denoise, x, solver, flow.time_grid(2)))(noise)
    asked = {name: value for name, value in ASKED.items() if name != "solver"} | options
    found = single([0, 5, 1], guidance_scale=0.3, seed=3, **asked)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_images_are_decoded_latents(single, bundle, latents):
    images = single([0, 5, 1], **ASKED | {"decode": True})
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    apply, params = models.functional(bundle.autoencoder, "decode")
    decoded = jax.jit(apply)(params, latents / 0.18215)
    np.testing.assert_allclose(images, 255 * jnp.clip((decoded + 1) / 2, 0, 1), atol=0.501)


@pytest.mark.parametrize("solver", [pytest.param("gm_ode", marks=pytest.mark.slow), "gm_sde"])
def test_devices_share_a_batch_and_change_nothing(pipe, single, solver):
    """Within 1e-5; without the spectrum, as nearly equal eigenvalues magnify rounding."""
    asked = {**ASKED, "solver": solver, "order": 1, "num_substeps": 1, "spectrum": False}
    labels = ["jay", "5", "magpie", 9, 9, 2]
    np.testing.assert_allclose(pipe(labels, **asked), single(labels, **asked), atol=1e-5)


def test_an_image_depends_on_its_seed_number_and_label_alone(single, latents):
    """Within 1e-5 it does not depend on the batch."""
    for size in (1, 2):
        np.testing.assert_allclose(single([0, 5, 1], batch_size=size, **ASKED), latents, atol=1e-5)
    more = single([0, 5, 1, 9, 9], batch_size=2, **ASKED)
    np.testing.assert_allclose(more[:3], latents, atol=1e-5)
    assert np.abs(more[3] - more[4]).max() > 0.1
    assert np.abs(single([0, 5, 1], seed=1, **ASKED) - latents).max() > 0.1
    assert np.abs(single([0, 5, 2], **ASKED) - latents)[:2].max() == 0


def test_batches_give_the_images_of_single_calls(single, latents):
    parts = list(single.batches([1, 5, 0], indices=[2, 1, 0], batch_size=1, **ASKED))
    assert [len(part) for part in parts] == [1, 1, 1]
    np.testing.assert_allclose(np.concatenate(parts)[::-1], latents, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "orthogonal", "scale"), [("cfg", 0.0, 2.5), ("cfg", 1.0, 2.5), ("probabilistic", 0.0, 0.3)]
)
def test_other_guidance_equals_that_of_the_guided_denoiser(single, bundle, method, orthogonal, scale):
    labels = jnp.asarray([0, 5, 1])
    noise, keys = draws(3, 3, (8, 8, 4))

    def denoiser(labels):
        return flow.denoiser(lambda x, t: bundle.model(x, t, labels))

    denoise = guidance.guided_denoiser(
        denoiser(labels), denoiser(jnp.full_like(labels, 10)), scale, method, orthogonal
    )
    expected = jax.jit(lambda x: solvers.sample(keys, denoise, x, solvers.euler(), flow.time_grid(2)))(noise)
    found = single([0, 5, 1], guidance_scale=scale, guidance=method, orthogonal=orthogonal, seed=3, **ASKED)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_diverging_network_is_reported(bundle):
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, bundle.params)
    model = models.from_params(models.GMDiT, bundle.config, params)
    pipe = pipeline.Pipeline(dataclasses.replace(bundle, model=model), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="Latents of the images from 0 on are NaN or infinite after 1 step"):
        pipe([1], num_steps=1, solver="euler", guidance_scale=0.0, progress=False)


def test_classifier_free_guidance_of_scale_1_is_off(single):
    off, cfg = (single([0, 5, 1], guidance_scale=w, guidance=g, **ASKED)
                for g, w in (("probabilistic", 0.0), ("cfg", 1.0)))  # fmt: skip
    np.testing.assert_array_equal(cfg, off)


def test_another_call_of_the_same_shape_compiles_nothing(single, latents):
    compiled = []

    def listener(event, duration, **_):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        single([3, 4, 9], seed=7, guidance_scale=0.2, **ASKED)
        assert not [event for event in compiled if "compile" in event]
        single([3] * 7, seed=7, **ASKED)  # a shape that no other test asks for
        assert [event for event in compiled if "compile" in event]
    finally:
        jax.monitoring.clear_event_listeners()


def test_without_guidance_the_network_is_called_once(single, latents):
    off, on = (single([0, 5, 1], guidance_scale=w, **ASKED) for w in (0.0, 0.45))
    np.testing.assert_array_equal(on, latents)
    assert np.abs(off - on).max() > 0.1


def test_a_custom_solver_is_used(single, latents):
    given = single([0, 5, 1], **ASKED | {"solver": solvers.euler()})
    np.testing.assert_array_equal(given, latents)


def test_the_progress_bar_counts_the_steps_of_all_batches(single, capsys):
    single([0, 5, 1], batch_size=1, **ASKED | {"progress": True})
    assert "6/6" in capsys.readouterr().err


def test_a_distilled_network_is_sampled_in_its_calls(bundle, monkeypatch):
    """Without being told: gm_ode of order 1 without guidance. What is given is used; other numbers warn."""
    pipe = pipeline.Pipeline(dataclasses.replace(bundle, num_calls=2), devices=jax.devices()[:1])
    asked = {"decode": False, "progress": False}
    with warnings.catch_warnings(action="error"):
        found = pipe([0, 5], **asked)
        euler = pipe([0, 5], **asked | {"solver": "euler"})
    plain = pipeline.Pipeline(bundle, devices=jax.devices()[:1])
    options = {"num_steps": 2, "order": 1, "num_substeps": 64, "guidance_scale": 0.0}
    np.testing.assert_array_equal(found, plain([0, 5], **asked | options))
    np.testing.assert_array_equal(euler, plain([0, 5], **asked | options | {"solver": "euler"}))
    recipes = []
    monkeypatch.setattr(pipe, "_compile", lambda recipe: recipes.append(recipe))
    with pytest.warns(UserWarning, match="distilled for num_calls = 2, but num_steps is 4"):
        pipe.batches([0], num_steps=4, **asked)
    pipe.batches([0], order=2, num_substeps=3, guidance_scale=0.3, **asked)
    pipe.batches([0], guidance="cfg", **asked)
    shown = [(r.solver, r.order, r.num_substeps, r.guided) for r in recipes]
    assert shown == [("gm_ode", 1, 32, False), ("gm_ode", 2, 3, True), ("gm_ode", 1, 64, False)]


def test_load_keeps_the_shift_and_chooses_the_type(bundle, tmp_path, single, latents):
    interop.save_diffusers(tmp_path / "out", dataclasses.replace(bundle, shift=2.0, spectrum=None))
    shifted = pipeline.load(tmp_path / "out", devices=jax.devices()[:1])
    assert shifted.id2label == bundle.id2label
    assert np.abs(shifted([0, 5, 1], **ASKED) - latents).max() > 0.01
    for platform, dtype, param_dtype, compute_dtype in (
        ("cpu", None, "float32", "float32"),
        ("cpu", "bfloat16", "bfloat16", "float32"),
        ("cuda", "bfloat16", "bfloat16", "bfloat16"),
        ("tpu", None, "float32", "float32"),
    ):
        config = pipeline.load_bundle(tmp_path / "out", dtype, platform).config
        assert (config.param_dtype, config.dtype) == (param_dtype, compute_dtype)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": [10]}, "out of range"),
        ({"labels": []}, "number of labels is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": 2.0}, r"num_steps is 2\.0, but must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance_scale": 1.0}, "guidance"),
        ({"guidance_scale": 0.45, "guidance": "cfg"}, "at least 1 for classifier-free"),
        ({"guidance": "magic"}, "method 'magic' is unknown"),
        ({"indices": [1, 2]}, "1 labels and 2 indices"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"seed": jnp.float32(1)}, "seed is .*1.*, but must be a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"indices": [-1]}, "An index is no whole number"),
        ({"indices": [2**32]}, "An index is no whole number"),
        ({"indices": [0.5]}, "An index is no whole number"),
        ({"guidance_scale": np.nan}, "guidance_scale is nan, but must be one finite number"),
        ({"guidance_scale": np.inf, "guidance": "cfg"}, "guidance_scale is inf"),
        ({"guidance_scale": jnp.full(1, 0.3)}, "must be one finite number"),
        ({"guidance_scale": "low"}, "guidance_scale is 'low'"),
        ({"orthogonal": np.nan}, "orthogonal is nan"),
        ({"orthogonal": 1.5}, r"orthogonal is 1\.5, but must be in \[0, 1\]"),
        ({"solver": "magic"}, "no solver 'magic'"),
        ({"solver": "gm_ode", "order": 3}, "order must be 1 or 2"),
        ({"solver": "gm_ode", "num_substeps": 0}, "num_substeps"),
        ({"spectrum": True}, "Only gm_sde draws with a spectrum"),
    ],
)
def test_options_that_cannot_work_are_refused(single, options, said):
    with pytest.raises(ValueError, match=said):
        single(**{"labels": [1]} | ASKED | options)


@pytest.mark.parametrize("scalars", [jnp, np])
def test_scalars_of_other_libraries_are_numbers(single, scalars):
    numbers = {
        "num_steps": scalars.int32(2), "seed": scalars.uint32(3), "batch_size": scalars.int32(3),
        "num_substeps": np.int64(4), "order": np.array(2), "guidance_scale": scalars.float32(0.25),
        "orthogonal": scalars.asarray(1.0), "indices": scalars.asarray([2, 1, 7]), "one_batch": np.True_,
    }  # fmt: skip
    expected = single([0, 5, 1], **ASKED | {"seed": 3, "guidance_scale": 0.25, "indices": [2, 1, 7]})
    labels = [scalars.int32(0), scalars.asarray(5), 1]
    np.testing.assert_array_equal(single(labels, **ASKED | numbers), expected)


def test_networks_that_are_missing_or_do_not_fit_are_named(bundle):
    with pytest.raises(ValueError, match="no transformer"):
        pipeline.Pipeline(dataclasses.replace(bundle, model=None))
    with pytest.raises(ValueError, match="decode_batch_size is 0"):
        pipeline.Pipeline(bundle, decode_batch_size=0)
    config = models.AutoencoderKLConfig(latent_channels=3, block_channels=(8,), num_groups=8)
    shapes = models.abstract(models.AutoencoderKL, config)[1]
    other = models.from_params(models.AutoencoderKL, config, shapes)
    with pytest.raises(ValueError, match="latents have 3 channels, but the transformer draws 4"):
        pipeline.Pipeline(dataclasses.replace(bundle, autoencoder=other))
    without = pipeline.Pipeline(dataclasses.replace(bundle, autoencoder=None, spectrum=None))
    with pytest.raises(ValueError, match=r"no autoencoder .no folder vae/.*decode=False"):
        without([1], num_steps=1)
    with pytest.raises(ValueError, match="no spectrum network"):
        without([1], **ASKED | {"solver": "gm_sde", "spectrum": True})
