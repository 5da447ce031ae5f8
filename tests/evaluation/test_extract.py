"""Features of a small network for any number of images, batch size and number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax.evaluation import FeatureExtractor
from gmflow_jax.models import InceptionFeatures, fingerprint, functional


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (13, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def alone(network, images):
    """The features of each image alone, without compilation."""
    return [network(jnp.asarray(image[None])) for image in images]


@pytest.mark.parametrize("num", [1, 4, 5, 8, 13])
def test_any_number_of_images_is_accepted(extractor, images, alone, num):
    features = extractor(images[:num])
    assert isinstance(features, InceptionFeatures)
    for values, expected in zip(features, zip(*alone, strict=True), strict=True):
        assert isinstance(values, np.ndarray) and values.dtype == np.float32
        np.testing.assert_allclose(values, np.concatenate(expected[:num]), rtol=1e-6, atol=1e-6)


def test_batch_size_is_a_multiple_of_the_devices(network, extractor):
    assert extractor.batch_size == 4
    assert FeatureExtractor(network).batch_size == 128
    assert FeatureExtractor(network, devices=jax.devices()[:1]).batch_size == 32


def test_batch_size_and_devices_do_not_matter(network, extractor, images):
    expected = extractor(images)
    for others in (
        FeatureExtractor(network, batch_size=16),
        FeatureExtractor(network, batch_size=5, devices=jax.devices()[:1]),
    ):
        for values, same in zip(others(images), expected, strict=True):
            np.testing.assert_allclose(values, same, rtol=1e-6, atol=1e-6)


def test_few_programs_are_compiled(network_class, images):
    """One program for each size of image, and one for a half, a quarter, ... of a batch."""
    compiled = []

    class Counted(network_class):
        def __call__(self, batch):
            compiled.append(batch.shape)
            return super().__call__(batch)

    extractor = FeatureExtractor(Counted(nnx.Rngs(0)), batch_size=4)
    for num in (1, 4, 13):
        extractor(images[:num])
    extractor(images[:, :4])
    assert compiled == [(4, 6, 5, 3), (4, 4, 5, 3)]
    compiled.clear()
    extractor = FeatureExtractor(Counted(nnx.Rngs(0)), batch_size=16)
    for num in (1, 4, 5, 8, 9, 13, 8, 1):
        extractor(images[:num])
    assert compiled == [(4, 6, 5, 3), (8, 6, 5, 3), (16, 6, 5, 3)]


def test_identity_and_widths_of_the_network(network_class, network, extractor):
    assert extractor.fingerprint == fingerprint(functional(network)[1])
    assert FeatureExtractor(network_class(nnx.Rngs(1))).fingerprint != extractor.fingerprint
    assert extractor.widths == InceptionFeatures(8, 5, 12)


def test_bad_input_is_refused(network, extractor, images):
    with pytest.raises(ValueError, match="uint8 from 0 to 255 is needed"):
        extractor(images / 255)
    with pytest.raises(ValueError, match=r"\[N, H, W, 3\] is needed"):
        extractor(images[:0])
    with pytest.raises(ValueError, match="batch_size is 0"):
        FeatureExtractor(network, batch_size=0)
