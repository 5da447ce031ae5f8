"""TensorFlow Datasets: mock data, and a small data set that is prepared for the test."""

import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gmflow_jax import data
from gmflow_jax.data._images import ImageBatches

NAMES = ("cat", "dog", "ant")  # not sorted: labels are the dataset's


@pytest.fixture(scope="module")
def tiny(files, tmp_path_factory):
    """A dataset 'tiny' of three images in tfds's folder; yields the folder."""
    kept = [files["n01/cmyk.JPEG"], files["n01/grey.JPEG"], files["n01/photo.png"]]
    features = {
        "image": tfds.features.Image(shape=(None, None, None)),
        "label": tfds.features.ClassLabel(names=NAMES),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, content in enumerate(kept):
                yield i, {"image": content, "label": i}

    folder = tmp_path_factory.mktemp("tfds")
    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def tfds_folder(tiny, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tiny))
    return tiny


def test_images_are_decoded_from_their_bytes(tfds_folder, image_folder):
    """Colours are then converted as they are for files."""
    source = data.open_images("tfds:tiny")
    assert source.class_folders == NAMES and source.kind == "tfds" and len(source) == 3
    assert {source.open(int(np.flatnonzero(source.labels == i)[0])).mode for i in (0, 1)} == {"CMYK", "L"}
    files = data.open_images(image_folder)
    names = {files.name(i): i for i in range(len(files))}
    for label, name in enumerate(("n01/cmyk.JPEG", "n01/grey.JPEG", "n01/photo.png")):
        found = source.open(int(np.flatnonzero(source.labels == label)[0]))
        np.testing.assert_array_equal(
            data.center_crop(found, 32), data.center_crop(files.open(names[name]), 32)
        )


def test_a_version_and_a_part_of_a_split_are_understood(tfds_folder):
    source = data.open_images("tfds:tiny:1.0.0:train[:2]")
    assert len(source) == 2 and source.name(1) == "tiny:1.0.0:train[:2]/1"
    assert source.description["num_images"] == 2
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(np.asarray(again.open(0)), np.asarray(source.open(0)))


def test_imagenet_of_tfds_is_read_from_mock_data():
    with tfds.testing.mock_data(num_examples=5):
        source = data.open_images("tfds:imagenet2012:validation")
        assert len(source) == 5 and len(source.class_folders) == 1000
        assert source.class_folders[0] == "n01440764"
        batch = ImageBatches(source, 16, batch_size=4)(0)
    assert batch["x_0"].shape == (4, 16, 16, 3) and batch["x_0"].min() >= -1 and batch["x_0"].max() <= 1
    assert ((batch["labels"] >= 0) & (batch["labels"] < 1000)).all()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("tfds:no_such_set", "has no dataset 'no_such_set'"),
        ("tfds:tiny:test", r"tiny:test cannot be opened \(Unknown split"),
        ("tfds:", r"cannot be opened \(Parsing builder name"),
    ],
)
def test_bad_datasets_are_refused(tfds_folder, spec, reason):
    with pytest.raises(ValueError, match=rf"{reason}.*; (check|prepare).*TFDS_DATA_DIR"):
        data.open_images(spec)


def test_datasets_without_labels_are_refused():
    with tfds.testing.mock_data(num_examples=1), pytest.raises(ValueError, match="but image and label are"):
        data.open_images("tfds:div2k")
