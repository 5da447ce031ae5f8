"""Images inside tars equal those of the folder, and are found without unpacking."""

import gzip
import threading

import numpy as np
import pytest
from PIL import Image

from gmflow_jax import data


def assert_same_images(found, expected):
    assert len(found) == len(expected) and found.class_folders == expected.class_folders
    np.testing.assert_array_equal(found.labels, expected.labels)
    for i in range(len(expected)):
        assert found.name(i) == expected.name(i)
        if "truncated" not in expected.name(i):
            np.testing.assert_array_equal(np.asarray(found.open(i)), np.asarray(expected.open(i)))


def test_a_tar_with_one_tar_for_each_class_is_read(image_tar, source):
    found = data.open_images(image_tar)
    assert found.kind == "tar"
    assert_same_images(found, source)
    assert found.description["sha256"] == source.description["sha256"]


def test_a_tar_of_folders_is_read(tmp_path, files, source, tar_writer):
    tar_writer(tmp_path / "train.tar", {f"./train/{name}": f for name, f in files.items()})
    assert_same_images(data.open_images(tmp_path / "train.tar"), source)


def test_several_tars_are_named_after_their_classes(tmp_path, files, source, tar_writer):
    for folder in source.class_folders:
        own = {name.split("/")[1]: f for name, f in files.items() if name.startswith(folder)}
        tar_writer(tmp_path / f"{folder}.tar", own)
    assert_same_images(data.open_images(tmp_path), source)
    assert_same_images(data.open_images(f"{tmp_path}/n02.tar,{tmp_path}/n01.tar"), source)


def test_threads_share_a_tar(image_tar):
    found = data.open_images(image_tar)
    expected = [np.asarray(found.open(i)) for i in range(7)]
    wrong = []

    def read():
        for _ in range(20):
            for i, image in enumerate(expected):
                if not np.array_equal(np.asarray(found.open(i)), image):
                    wrong.append(i)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_invalid_image_bytes_raise_os_error(tmp_path, tar_writer):
    tar_writer(tmp_path / "train.tar", {"n01/words.jpg": b"not an image"})
    with pytest.raises(Image.UnidentifiedImageError):
        data.open_images(tmp_path / "train.tar").open(0)


def test_bad_tars_are_refused(tmp_path, files, image_tar, tar_writer):
    content = image_tar.read_bytes()
    cases = {
        "gzip.tar": (gzip.compress(content), "compressed or not whole"),
        "cut.tar": (content[: len(content) // 2], "not whole"),
        "cut_between_files.tar": (None, "no end mark"),
        "empty.tar": (b"", "not whole"),
        "words.tar": (b"words" * 1000, "not whole"),
    }
    for name, (damaged, reason) in cases.items():
        if damaged is None:
            tar_writer(tmp_path / name, {"n01/photo.png": files["n01/photo.png"]})
            whole = (tmp_path / name).read_bytes()
            damaged = whole[: 512 + -(-len(files["n01/photo.png"]) // 512) * 512]
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} at byte .*{reason}.*copy it again\.$"):
            data.open_images(tmp_path / name)


def test_ambiguous_tars_are_refused(tmp_path, image_tar, tar_writer):
    with pytest.raises(ValueError, match=r"train\.tar is given twice; give it once"):
        data.open_images(f"{image_tar},{image_tar}")
    for name in ("train.tar.gz", "photo.jpg"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"{name} does not end in \.tar; uncompress"):
            data.open_images(tmp_path / name)
    (tmp_path / "train.tar").symlink_to(image_tar)
    (tmp_path / "n01").mkdir()
    with pytest.raises(ValueError, match=r"tar files, such as train\.tar, and folders, such as n01.*; give"):
        data.open_images(tmp_path)


def test_images_without_a_class_are_refused(tmp_path, files, tar_writer):
    tar_writer(tmp_path / "val.tar", {"ILSVRC2012_val_1.JPEG": files["n01/n01_0.JPEG"]})
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_1\.JPEG, are in no folder"):
        data.open_images(tmp_path / "val.tar")
    tar_writer(tmp_path / "nothing.tar", {"n01/list.txt": b"words"})
    with pytest.raises(ValueError, match="holds no images"), pytest.warns(UserWarning, match="n01/list.txt"):
        data.open_images(tmp_path / "nothing.tar")
