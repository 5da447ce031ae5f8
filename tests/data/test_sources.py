"""Folders of images: order, classes and names, and which folders are refused."""

import hashlib
import os
import pickle

import numpy as np
import pytest
from PIL import Image, features

from gmflow_jax import data


def test_images_come_sorted_by_class_and_name(image_folder, files):
    source = data.open_images(image_folder)
    assert isinstance(source, data.ImageSource) and source.kind == "folder"
    assert [source.name(i) for i in range(len(source))] == sorted(files)
    assert source.class_folders == ("n01", "n02")
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [int(name.startswith("n02")) for name in sorted(files)]


def test_images_equal_the_files(image_folder, files):
    source = data.open_images(str(image_folder))
    modes = set()
    for i, name in enumerate(sorted(files)):
        if "truncated" not in name:
            with Image.open(image_folder / name) as expected:
                np.testing.assert_array_equal(np.asarray(source.open(i)), np.asarray(expected))
                modes.add(expected.mode)
    assert modes == {"RGB", "CMYK", "L"}


OF_SYSTEMS = (
    "cat/._a.jpg", ".hidden/x/2.jpg", "@eaDir/cat/a.jpg", "cat/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "__MACOSX/cat/a.jpg", "lost+found/a.jpg", "cat/.ipynb_checkpoints/a.png", "cat/Thumbs.db", ".DS_Store",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_subfolders_are_searched_and_other_files_are_counted(kind, tmp_path, files, tar_writer):
    # The class of an image in a tar is its own folder.
    images = ("cat/a.PNG", "cat/b/1.jpg" if kind == "folder" else "cat/b.jpg", "cat/photo.HEIC")
    content = dict.fromkeys((*images, *OF_SYSTEMS), files["n01/photo.png"])
    content |= dict.fromkeys(("cat/list.txt", "cat/raw.dng"), b"words")
    root = tmp_path / "images.tar"
    if kind == "tar":
        tar_writer(root, content | {"cat/._b.tar": b"of a Macintosh"})
    for name in content if kind == "folder" else ():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content[name])
    with pytest.warns(UserWarning, match=r"\(\.dng, \.txt\) are not those .*: 2, such as cat/list\.txt"):
        source = data.open_images(root)
    assert tuple(source.name(i) for i in range(len(source))) == images
    assert source.class_folders == ("cat",)


FORMATS = {"avif": "AVIF", "bmp": "BMP", "gif": "GIF", "jfif": "JPEG", "TIF": "TIFF", "webp": "WEBP"}


def test_all_common_formats_are_read_and_unknown_ones_are_listed(tmp_path, write):
    (tmp_path / "n01").mkdir()
    for suffix, format in FORMATS.items():
        if format != "AVIF" or features.check("avif"):
            Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "n01" / f"a.{suffix}", format)
    source = data.open_images(tmp_path)
    for pixels in np.concatenate(list(data.read_images(source, 8))):
        np.testing.assert_allclose(pixels, np.broadcast_to([200, 100, 50], (8, 8, 3)), atol=30)
    (tmp_path / "n01" / "b.jxl").write_bytes(b"a format that Pillow does not read")
    with pytest.raises(ValueError, match=r"n01/b\.jxl is broken \(Pillow cannot read its format\)"):
        list(data.read_images(data.open_images(tmp_path), 8))
    metadata = write(data.open_images(tmp_path), tmp_path / "out", image_size=8)
    assert metadata.broken == ("n01/b.jxl",) and metadata.num_images == len(source)


def test_the_description_changes_with_the_images(image_folder, files, tmp_path):
    description = data.open_images(image_folder).description
    names = "\n".join(sorted(files)).encode()
    labels = np.array([name.startswith("n02") for name in sorted(files)], "<i4").tobytes()
    assert description == {
        "kind": "folder",
        "num_images": len(files),
        "sha256": hashlib.sha256(names + labels).hexdigest(),
    }


def test_sources_can_be_pickled(source):
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(np.asarray(again.open(3)), np.asarray(source.open(3)))
    np.testing.assert_array_equal(again.labels, source.labels)


def test_invalid_image_bytes_raise_os_error(source, files):
    index = sorted(files).index("n02/truncated.JPEG")
    with pytest.raises(OSError, match="truncated"):
        source.open(index).load()


def test_files_that_cannot_be_opened_are_listed_as_broken(tmp_path, files, write):
    (tmp_path / "n01").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "n01" / name).write_bytes(files["n01/photo.png"])
    (tmp_path / "n01" / "3.png").symlink_to("absent")
    source = data.open_images(tmp_path)
    (tmp_path / "n01" / "2.png").unlink()
    (tmp_path / "n01" / "2.png").mkdir()
    metadata = write(source, tmp_path / "out")
    assert metadata.broken == ("n01/2.png", "n01/3.png") and metadata.num_images == 1


def test_links_are_followed_once(tmp_path, files):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(files["n01/photo.png"])
    root = tmp_path / "images"
    (root / "n01").mkdir(parents=True)
    (root / "n01" / "1.png").write_bytes(files["n01/photo.png"])
    (root / "n02").symlink_to(tmp_path / "elsewhere")
    assert len(data.open_images(root)) == 2
    for link, target in ((root / "n01" / "up", root), (root / "n03", root / "n02")):
        link.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{target} and {link} are the same folder, .*; remove"):
            data.open_images(root)
        link.unlink()


def test_names_that_are_not_utf8_are_refused(tmp_path, files):
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / os.fsdecode(b"caf\xe9.png")).write_bytes(files["n01/photo.png"])
    with pytest.raises(ValueError, match=r"name 'n01/caf\\udce9\.png' in .* is not UTF-8; rename"):
        data.open_images(tmp_path)


def test_bad_folders_are_refused(tmp_path, files):
    with pytest.raises(ValueError, match=r"no folder or file .*absent; give"):
        data.open_images(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds no images; it needs"):
        data.open_images(tmp_path)
    for folder in ("n01", "n02"):
        (tmp_path / folder).mkdir()
    (tmp_path / "n02" / "photo.png").write_bytes(files["n01/photo.png"])
    with pytest.raises(ValueError, match=r"folder n01 in .* holds no images, .*; add"):
        data.open_images(tmp_path)
    (tmp_path / "photo.png").write_bytes(files["n01/photo.png"])
    with pytest.raises(ValueError, match=r"1 images in .*photo\.png, are in no folder.*; put"):
        data.open_images(tmp_path)
