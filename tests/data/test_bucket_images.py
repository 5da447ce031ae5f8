"""Images in a bucket, on a real server on loopback, are those of the same folder or tar files."""

import pickle
import warnings

import numpy as np
import pytest

from gmflow_jax import data
from gmflow_jax._files import BucketError, to_path


def put(files, address):
    for name, content in files.items():
        address.fs.pipe_file(f"{address.path}/{name}", content)


def assert_same_source(found, expected):
    assert found.description == expected.description and found.class_folders == expected.class_folders
    np.testing.assert_array_equal(found.labels, expected.labels)
    for i in range(len(expected)):
        assert found.name(i) == expected.name(i)
        if "truncated" not in found.name(i):
            np.testing.assert_array_equal(np.asarray(found.open(i)), np.asarray(expected.open(i)))


def test_a_folder_equals_the_local_one(files, image_folder, bucket):
    put(files, bucket)
    found = data.open_images(str(bucket))
    assert_same_source(found, data.open_images(image_folder))
    assert_same_source(pickle.loads(pickle.dumps(found)), data.open_images(f"{bucket}/"))


@pytest.mark.parametrize("need_classes", [True, False])
def test_names_and_warnings_equal_the_local_ones(files, tmp_path, bucket, need_classes):
    photo = files["n01/photo.png"]
    names = ("cat/b/1.jpg", "cat/b.PNG", "dog/é #1.png", "cat/._a.jpg", "@eaDir/cat/a.jpg", ".x/y/2.jpg")
    content = dict.fromkeys(names, photo) | dict.fromkeys(("cat/b/list.txt", "cat/c.dng", ".DS_Store"), b"")
    content |= {} if need_classes else {"stray.png": photo, "words.txt": b""}
    for name, data_of in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data_of)
    put(content | {"": b"", "cat/": b""}, bucket)  # some tools write such marks of folders
    said = []
    for root in (tmp_path, bucket):
        with pytest.warns(UserWarning, match="not those of images") as caught:
            said.append((data.open_images(root, need_classes), str(caught[0].message).replace(str(root), "")))
    assert said[0][1] == said[1][1]
    assert_same_source(said[1][0], said[0][0])


def test_tars_equal_the_local_ones(image_tar, image_folder, bucket, tar_writer, tmp_path):
    put({"train.tar": image_tar.read_bytes()}, bucket)
    assert_same_source(data.open_images(bucket / "train.tar"), data.open_images(image_tar))
    for folder in ("n01", "n02"):
        own = {path.name: path.read_bytes() for path in (image_folder / folder).iterdir()}
        tar_writer(tmp_path / f"{folder}.tar", own)
        put({f"{folder}.tar": (tmp_path / f"{folder}.tar").read_bytes()}, bucket / "classes")
    expected = data.open_images(tmp_path)
    for spec in (
        f"{bucket}/classes",
        f"{bucket}/classes/n02.tar,{bucket}/classes/n01.tar",
        f"{tmp_path}/n02.tar,{bucket}/classes/n01.tar",
    ):
        assert_same_source(data.open_images(spec), expected)


def test_bad_images_are_refused(files, image_tar, bucket):
    photo = files["n01/photo.png"]
    put({"cut/a.tar": image_tar.read_bytes()[:3000], "mixed/a.tar": b"", "mixed/n01/a.png": photo}, bucket)
    put({"stray/a.png": photo, "stray/n01/a.png": photo, "empty/n01/": b"", "empty/n02/a.png": photo}, bucket)
    put({"words/n01/list.txt": b"", "slash/n01//a.png": photo, "one.tar.gz": b""}, bucket)
    for name, reason in (
        ("cut", r"a\.tar at byte .* not whole"),
        ("cut/a.tar,{}/cut/a.tar", r"a\.tar is given twice"),
        ("mixed", r"tar files, such as a\.tar, and folders, such as n01"),
        ("stray", r"1 images in gs://.*a\.png, are in no folder"),
        ("empty", r"folder n01 in gs://.* holds no images"),
        ("words", "holds no images; it needs"),
        ("slash", "n01//a.png in the bucket is no path"),
        ("one.tar.gz", r"does not end in \.tar"),
        ("absent", "no folder or file gs://.*absent; give"),
    ):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=reason):
            warnings.simplefilter("ignore")
            data.open_images(f"{bucket}/{name.format(bucket)}")
    with pytest.raises(BucketError, match="gs://missing/images: there is no such bucket"):
        data.open_images("gs://missing/images")


def test_an_image_that_cannot_be_reached_is_not_left_out(files, bucket, write, tmp_path):
    """A bucket that fails must not look like images that are broken."""
    put({name: files[name] for name in ("n01/photo.png", "n01/n01_0.JPEG")}, bucket)
    source = data.open_images(bucket)
    bucket.fs.rm_file(f"{bucket.path}/n01/n01_0.JPEG")
    with pytest.raises(BucketError, match=r"n01_0\.JPEG: there is no such bucket or file"):
        write(source, tmp_path)


def test_class_names_are_read_from_a_bucket(bucket):
    put({"names.txt": "n01 café\n".encode("utf-16")}, bucket)
    assert data.read_class_names(str(bucket / "names.txt")) == {"n01": "café"}
    with pytest.raises(ValueError, match=r"There is no file gs://.*absent; give"):
        data.read_class_names(to_path(f"{bucket}/absent"))
