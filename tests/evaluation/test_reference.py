"""References from files in every format and from folders, against the features of their images."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from gmflow_jax.data import center_crop
from gmflow_jax.evaluation import (
    FeatureExtractor,
    available_metrics,
    image_features,
    image_scores,
    load_reference,
    saturation,
    save_reference,
)

NUM = 70  # more than are read at once


class Blind(FeatureExtractor):
    """An extractor that raises if it is given an image."""

    def __call__(self, images):
        raise AssertionError(f"{len(images)} images are looked at.")


@pytest.fixture(scope="module")
def blind(network):
    return Blind(network)


@pytest.fixture(scope="module")
def images(pictures):
    return pictures(5, NUM)


@pytest.fixture(scope="module")
def features(extractor, images):
    return image_features(extractor, [images])


@pytest.fixture(scope="module")
def statistics(features):
    """Statistics under ADM's names, different from those of the images."""
    return {
        "mu": features.pool3.mean + 1,
        "sigma": 2 * features.pool3.covariance,
        "mu_s": features.spatial.mean - 1,
        "sigma_s": 3 * features.spatial.covariance,
    }


@pytest.fixture
def save(tmp_path):
    """save(**arrays): write the arrays to a new file and return its path."""

    def write(**arrays):
        path = tmp_path / "reference.npz"
        np.savez(path, **arrays)
        return path

    return write


def assert_same(found, expected):
    """Assert that moments agree within 1e-12, as batches may differ, and rows exactly."""
    for part in ("pool3", "spatial"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        for array, same in zip(ours or (), theirs or (), strict=True):
            np.testing.assert_allclose(array, same, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert found.colors == (expected.colors and pytest.approx(expected.colors, rel=1e-12))


def test_a_reference_from_images_alone(extractor, save, images, features):
    path, batches = save(arr_0=images), []

    def progress(coming):
        for batch in coming:
            batches.append(len(batch))
            yield batch

    reference = load_reference(path, extractor, progress=progress)
    assert batches == [64, 6]
    for part in ("pool3", "spatial"):
        moments, expected = getattr(reference, part), getattr(features, part)
        np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, expected.covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(reference.rows, features.rows)
    assert reference.colors == pytest.approx({n: v.mean() for n, v in features.colors.items()}, rel=1e-12)
    assert reference.colors["saturation"] == pytest.approx(saturation(images).mean(), rel=1e-12)
    assert image_scores(features, reference, ["fid"])["fid"] < 1e-9
    assert json.loads(json.dumps(reference.source)) == {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "arrays": ["arr_0"],
        "num_images": NUM,
    }


def test_statistics_stored_beside_images_are_used(extractor, save, images, statistics):
    """ADM's format: the statistics are of all images of the training set, of which `arr_0` contains some."""
    of_images = load_reference(save(arr_0=images), extractor)
    reference = load_reference(save(arr_0=images, **statistics), extractor)
    np.testing.assert_array_equal(reference.pool3.mean, statistics["mu"])
    np.testing.assert_array_equal(reference.pool3.covariance, statistics["sigma"])
    np.testing.assert_array_equal(reference.spatial.mean, statistics["mu_s"])
    np.testing.assert_array_equal(reference.spatial.covariance, statistics["sigma_s"])
    np.testing.assert_array_equal(reference.rows, of_images.rows)
    assert reference.colors == of_images.colors
    assert reference.source["num_images"] == NUM
    assert reference.source["arrays"] == ["arr_0", "mu", "mu_s", "sigma", "sigma_s"]


def test_statistics_missing_beside_images_are_computed(extractor, save, images, features, statistics):
    reference = load_reference(save(arr_0=images, mu=statistics["mu"], sigma=statistics["sigma"]), extractor)
    np.testing.assert_array_equal(reference.pool3.mean, statistics["mu"])
    np.testing.assert_allclose(reference.spatial.mean, features.spatial.mean, rtol=1e-12)


def test_a_reference_from_statistics_alone(blind, save, statistics):
    reference = load_reference(save(mu=statistics["mu"], sigma=statistics["sigma"]), blind)
    np.testing.assert_array_equal(reference.pool3.mean, statistics["mu"])
    assert reference.pool3.covariance.dtype == np.float64
    assert reference.spatial is reference.rows is reference.colors is None
    assert "num_images" not in reference.source
    assert available_metrics(reference) == ("fid", "inception_score", "colours")


def test_a_reference_in_the_authors_format(blind, save, features, statistics):
    path = save(mean=statistics["mu"], cov=statistics["sigma"], real_feats_np=features.rows)
    reference = load_reference(path, blind)
    np.testing.assert_array_equal(reference.pool3.mean, statistics["mu"])
    np.testing.assert_array_equal(reference.pool3.covariance, statistics["sigma"])
    np.testing.assert_array_equal(reference.rows, features.rows)
    assert reference.spatial is None and reference.colors is None


def test_images_beside_features_are_not_read(blind, save, images, features):
    moments = {"mu": features.pool3.mean, "sigma": features.pool3.covariance}
    reference = load_reference(save(arr_0=images, pool3=features.rows, **moments), blind)
    np.testing.assert_array_equal(reference.rows, features.rows)
    assert reference.spatial is reference.colors is None


def test_images_beside_features_are_read_if_statistics_are_missing(extractor, save, images, features):
    reference = load_reference(save(arr_0=images, pool3=features.rows), extractor)
    np.testing.assert_allclose(reference.pool3.mean, features.pool3.mean, rtol=1e-12)


@pytest.mark.parametrize("folders", [("", ""), ("n01/", "n02/")], ids=["plain", "classes"])
def test_a_folder_gives_the_reference_of_its_crops(extractor, save, tmp_path, folders):
    photos = np.random.default_rng(0).integers(0, 256, (7, 40, 51, 3), dtype=np.uint8)
    for i, photo in enumerate(photos):
        file = tmp_path / "photos" / folders[i // 4] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(file)
    reference = load_reference(tmp_path / "photos", extractor, image_size=16)
    crops = np.stack([center_crop(Image.fromarray(photo), 16) for photo in photos])
    assert_same(reference, load_reference(save(arr_0=crops), extractor))
    assert reference.source["path"] == str(tmp_path / "photos")
    assert reference.source["image_size"] == 16 and reference.source["num_images"] == 7
    assert reference.source["sha256"] == hashlib.sha256(crops.tobytes()).hexdigest()
    json.dumps(reference.source)
    turned = load_reference(tmp_path / "photos", extractor, image_size=16, exif_orientation=True)
    assert turned.source == reference.source | {"exif_orientation": True}  # these have no EXIF
    with pytest.raises(ValueError, match="the size of their crops is unknown; give image_size"):
        load_reference(tmp_path / "photos", extractor)


@pytest.mark.parametrize(
    "lacking", [(), ("spatial",), ("rows",), ("pool3", "spatial"), ("spatial", "rows", "colors")]
)
def test_a_saved_reference_is_read_without_images(extractor, blind, save, tmp_path, images, lacking):
    reference = load_reference(save(arr_0=images), extractor)
    reference = dataclasses.replace(reference, **dict.fromkeys(lacking))
    path = tmp_path / "out" / "saved.npz"
    path.parent.mkdir()
    save_reference(str(path), reference, extractor)
    assert [file.name for file in path.parent.iterdir()] == ["saved.npz"]
    found = load_reference(path, blind)
    assert_same(found, reference)
    assert found.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    save_reference(path, found, extractor)  # over itself
    assert_same(load_reference(path, blind), reference)


def test_features_of_another_inception_are_refused(
    network_class, extractor, blind, save, tmp_path, images
):
    reference = load_reference(save(arr_0=images), extractor)
    save_reference(tmp_path / "saved.npz", reference, FeatureExtractor(network_class(nnx.Rngs(1))))
    with pytest.raises(ValueError, match=r"saved\.npz were made by another Inception; make them again"):
        load_reference(tmp_path / "saved.npz", blind)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mu": np.zeros(9)}, r"shapes \(9,\) and \(8, 8\), but this Inception's features are 8 wide"),
        ({"sigma": np.eye(9)}, r"shapes \(8,\) and \(9, 9\)"),
        ({"sigma_s": np.eye(8)}, r"shapes \(5,\) and \(8, 8\), but this Inception's features are 5 wide"),
        ({"pool3": np.zeros((20, 9))}, r"shape \(20, 9\), but this Inception's are \[images, 8\]"),
        ({"real_feats_np": np.zeros(8)}, r"shape \(8,\), but this Inception's are \[images, 8\]"),
        ({"sigma": None}, "only half of the statistics: sigma or cov is missing"),
        ({"mu_s": None}, "only half of the statistics: mu_s is missing"),
        ({"mu": np.full(8, np.nan)}, r"the mean in .*reference\.npz: 8 of 8 values are NaN"),
        ({"sigma": np.full((8, 8), np.inf)}, r"the covariance in .*reference\.npz: 64 of 64 values"),
        ({"pool3": np.full((20, 8), np.nan)}, r"the features in .*reference\.npz: 160 of 160 values"),
        ({"mu": np.array(["a", None])}, r"reference\.npz is damaged \(Object arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(blind, save, statistics, changes, sentence):
    arrays = {name: array for name, array in (statistics | changes).items() if array is not None}
    with pytest.raises(ValueError, match=sentence):
        load_reference(save(**arrays), blind)


def test_wrong_images_are_refused(extractor, save, images):
    for wrong, sentence in (
        (images / 255, r"look like images in \[0, 1\]"),
        (images[0], r"shape \(16, 16, 3\), but \[N, H, W, 3\] is needed"),
        (images[:0], "no images to measure"),
        (images[:1], "too few samples, 1, for a covariance"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_reference(save(arr_0=wrong), extractor)


def test_other_files_are_refused(blind, save, tmp_path):
    with pytest.raises(ValueError, match="holds labels, x, but a reference is the images arr_0"):
        load_reference(save(labels=np.zeros(3), x=np.zeros(2)), blind)
    with pytest.raises(ValueError, match="holds nothing, but a reference is"):
        load_reference(save(), blind)
    with pytest.raises(ValueError, match=r"There is no file .*missing\.npz"):
        load_reference(tmp_path / "missing.npz", blind)
    with pytest.raises(ValueError, match="There is no folder or file"):
        load_reference(tmp_path / "missing", blind)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_damaged_files_are_refused(blind, tmp_path, write):
    path = tmp_path / "reference.npz"
    write(path, pool3=np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"reference\.npz is no \.npz file, or it is damaged"):
        load_reference(path, blind)
    start = len(whole) * 3 // 4  # its header is whole
    path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    with pytest.raises(ValueError, match=r"reference\.npz is damaged .* fetch it again"):
        load_reference(path, blind)


def test_unknown_file_endings_are_refused(extractor, save, images, tmp_path):
    reference = load_reference(save(arr_0=images), extractor)
    for name in ("reference", "reference.pkl", "npz"):
        with pytest.raises(ValueError, match=rf"A reference is an \.npz file, but .*{name} was given"):
            save_reference(tmp_path / name, reference, extractor)
