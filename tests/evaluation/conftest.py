"""The golden features that several metrics are tested on, and a small network in place of Inception."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax.evaluation import FeatureExtractor, Moments, Reference, image_features
from gmflow_jax.models import InceptionFeatures

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


@pytest.fixture(scope="session")
def expected():
    """The metrics of the golden features by name."""
    return json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(scope="session")
def features():
    """Real [420, 96] and fake [360, 96] features, float32."""
    with np.load(GOLDEN / "features.npz") as arrays:
        return arrays["ref"], arrays["gen"]


@pytest.fixture(scope="session")
def logits():
    """Logits [360, 40], float32."""
    with np.load(GOLDEN / "features.npz") as arrays:
        return arrays["logits"]


class SmallInception(nnx.Module):
    """A network for images of any size with Inception's features, 8, 5 and 12 numbers wide."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(8, 12, use_bias=False, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.conv(images.astype(jnp.float32) / 128 - 1))
        pool3 = x.mean(axis=(1, 2))
        return InceptionFeatures(pool3, x.max(axis=(1, 2))[:, :5], self.fc(pool3))


@pytest.fixture(scope="session")
def network_class():
    return SmallInception


@pytest.fixture(scope="session")
def network():
    return SmallInception(nnx.Rngs(0))


@pytest.fixture(scope="session")
def extractor(network):
    """An extractor of the small network's features, for 4 images at once on the 4 devices."""
    return FeatureExtractor(network, batch_size=3)


@pytest.fixture(scope="session")
def pictures():
    """pictures(seed, num): ramps between colours, uint8 [num, 16, 16, 3]."""

    def draw(seed: int, num: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        top, bottom = rng.integers(0, 256, (2, num, 1, 1, 3))
        ramp = np.linspace(0, 1, 16)[:, None, None]
        return np.broadcast_to(top + (bottom - top) * ramp, (num, 16, 16, 3)).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def real_images(pictures):
    return pictures(0, 48)


@pytest.fixture(scope="session")
def fake_images(pictures):
    """Pale images that resemble each other: most are near a real one, and few real ones are near them."""
    return pictures(1, 37) // 6 + 100


@pytest.fixture(scope="session")
def real(extractor, real_images):
    return image_features(extractor, [real_images])


@pytest.fixture(scope="session")
def fake(extractor, fake_images):
    return image_features(extractor, [fake_images])


@pytest.fixture(scope="session")
def reference(real):
    moments = (Moments(part.mean, part.covariance) for part in (real.pool3, real.spatial))
    return Reference(*moments, real.rows, None, {})
