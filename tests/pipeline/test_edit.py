"""Editing: known latents come out as given, the others are drawn as always, and bad input is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import models, pipeline, solvers

ASKED = {"num_steps": 2, "solver": "euler", "progress": False}
LATENTS = ASKED | {"decode": False}
LOWER = np.arange(8)[:, None] >= np.full(8, 4)  # half of the latent
LABELS = [9, "magpie", 3]
QUICK = ("euler",)
DRAWN = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in solvers.NAMES
         if name != "ddpm_large"]  # fmt: skip


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def edited(single, images):
    """The lower half of all images, drawn anew."""
    return single.edit(images, LOWER, LABELS, **ASKED)


@pytest.mark.parametrize("solver", DRAWN)
def test_known_latents_come_out_and_a_full_mask_draws_as_ever(single, latents, solver):
    asked = LATENTS | {"solver": solver, "order": 1, "num_substeps": 1}
    unknown = np.where(LOWER[..., None], np.nan, latents)  # may be anything where they are drawn anew
    found, plain = single.edit(unknown, LOWER, LABELS, **asked), single(LABELS, **asked)
    np.testing.assert_allclose(found[:, :4], latents[:, :4], rtol=0, atol=1e-6)
    assert np.abs(found - latents)[:, 4:].max(axis=(1, 2, 3)).min() > 0.1
    full = single.edit(latents, LOWER | True, LABELS, **asked)
    np.testing.assert_allclose(full, plain, rtol=1e-5, atol=1e-5)


def test_the_mean_of_the_autoencoder_is_observed(single, bundle, images):
    encode, params = models.functional(bundle.autoencoder, "encode")
    expected = 0.18215 * jax.jit(encode)(params, jnp.asarray(images, jnp.float32) / 127.5 - 1)[0]
    found = single.edit(images, LOWER, LABELS, **LATENTS)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-5)
    np.testing.assert_allclose(single.edit(images, LOWER & False, LABELS, **LATENTS), expected, atol=1e-5)


def test_kept_pixels_are_those_of_the_images(single, images, edited):
    kept = single.edit(images, LOWER, LABELS, keep=True, **ASKED)
    np.testing.assert_array_equal(kept[:, :8], images[:, :8])
    np.testing.assert_array_equal(kept[:, 8:], edited[:, 8:])
    mask = np.zeros((16, 16), np.uint8)
    mask[9:, 1:] = 255  # of the latent pixels 4 to 7
    kept = single.edit(images, mask, LABELS, keep=True, **ASKED)
    np.testing.assert_array_equal(kept, np.where(mask[..., None] > 0, edited, images))


@pytest.mark.slow
def test_batches_devices_and_the_bar_change_nothing(pipe, single, images, latents):
    masks = np.stack([LOWER, LOWER.T, LOWER])
    asked = LATENTS | {"seed": 4, "indices": [3, 0, 5]}
    expected = single.edit(latents, masks, LABELS, **asked)
    for options in ({"batch_size": 2}, {"progress": True}):
        found = single.edit(latents, masks, LABELS, **asked | options)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    split, whole = (run.edit(images, masks, LABELS, **asked) for run in (pipe, single))
    np.testing.assert_allclose(split, whole, atol=1e-5)


def test_another_mask_and_image_compile_nothing(single, images, edited):
    compiled = []

    def listener(event, duration, **_):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        single.edit(images[::-1], np.ones((3, 16, 16)), [1, 1, 2], var=0.5, seed=1, **ASKED)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "compile" in event]


def test_a_variance_lets_known_latents_deviate(single, latents):
    near, far = (single.edit(latents, LOWER, LABELS, var=v, **LATENTS) for v in (1e-4, 1.0))
    assert 1e-4 < np.abs(near - latents)[:, :4].max() < 0.1 < np.abs(far - latents)[:, :4].max()


def test_latents_are_edited_without_an_autoencoder(single, bundle, latents):
    alone = pipeline.Pipeline(dataclasses.replace(bundle, autoencoder=None), devices=jax.devices()[:1])
    expected = single.edit(latents, LOWER, LABELS, **LATENTS)
    np.testing.assert_allclose(alone.edit(latents, LOWER, LABELS, **LATENTS), expected, atol=1e-5)
    for images, mask, said in (
        (np.zeros((1, 16, 16, 3), np.uint8), LOWER, r"floats \[n, 8, 8, 4\], as there is no autoencoder"),
        (latents[:1], np.ones((16, 16)), r"the size of latents or images, \[8, 8\], with"),
    ):
        with pytest.raises(ValueError, match=said):
            alone.edit(images, mask, [1], **LATENTS)


IMAGES = np.zeros((2, 16, 16, 3), np.uint8)
NAN = np.full((2, 8, 8, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": IMAGES / 255}, "images are float64 of shape .* must be uint8 .* Convert integers by"),
        ({"images": IMAGES[:, :8]}, r"shape \(2, 8, 16, 3\), but must be uint8 \[n, 16, 16, 3\]"),
        ({"images": IMAGES[0]}, r"needs a first axis"),
        ({"images": IMAGES[..., :1]}, r"shape \(2, 16, 16, 1\)"),
        ({"images": [IMAGES[0], IMAGES[0, 1:]]}, "images are of type list"),
        ({"images": None}, "images are of type NoneType"),
        ({"observation": (NAN, 0.0)}, "edit makes the observation"),
        ({"solver": "ddpm_large"}, "adds noise in its last step"),
        ({"images": NAN}, "observed latents are NaN or infinite at known pixels"),
        ({"labels": [1]}, "1 labels and 2 observed images"),
        ({"labels": ["unknown", 1]}, "no class 'unknown'"),
        ({"mask": np.ones((4, 4))}, r"mask has shape \(4, 4\), .* \[8, 8\] or \[16, 16\]"),
        ({"mask": np.ones((3, 8, 8))}, r"mask has shape \(3, 8, 8\), .* a first axis of 2"),
        ({"mask": np.ones((8, 8, 1))}, "without channels"),
        ({"mask": np.full((8, 8), np.nan)}, "mask is float64 with NaN"),
        ({"mask": "lower"}, "must be booleans or numbers"),
        ({"mask": None}, "mask is object"),
        ({"var": -1.0}, r"var is -1\.0"),
        ({"var": np.inf}, "var is inf"),
        ({"var": 1e300}, "var is"),
        ({"mask": np.ones((8, 8), complex)}, "mask is complex128"),
        ({"keep": True, "decode": False}, "needs uint8 images and decode=True"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_edited_is_refused(single, options, said):
    with pytest.raises(ValueError, match=said):
        single.edit(**{"images": IMAGES, "mask": LOWER, "labels": [1, 2]} | ASKED | options)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (IMAGES[0], "must be a pair"),
        ((IMAGES, LOWER), r"For a mask, give np\.where"),
        ((IMAGES, -1.0), "floats of at least 0"),
        ((IMAGES, np.zeros((2, 4, 4))), r"shape \(2, 4, 4\), but needs .* \[2, 8, 8\]"),
    ],
)
def test_observations_that_cannot_work_are_refused(single, observation, said):
    with pytest.raises(ValueError, match=said):
        single([1, 2], observation=observation, **ASKED)
