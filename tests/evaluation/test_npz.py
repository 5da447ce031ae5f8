"""Rows of arrays in .npz files against numpy.load, and how much memory they take."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from gmflow_jax.evaluation import npz_rows, npz_shapes

ARRAYS = {
    "arr_0": np.random.default_rng(0).integers(0, 256, (23, 5, 4, 3), dtype=np.uint8),
    "mu": np.arange(7.0),
    "big_endian": np.arange(12, dtype=">f4").reshape(4, 3),
    "no_rows": np.zeros((0, 2)),
    "scalar": np.array(3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "words": np.array(["a", "b"], dtype=object),
}
READABLE = ("arr_0", "mu", "big_endian")


@pytest.fixture(scope="module", params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("npz") / "arrays.npz"
    request.param(path, **ARRAYS)
    return path


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_rows_equal_those_of_numpy(path, name, batch_size):
    batches = list(npz_rows(path, name, batch_size))
    array = ARRAYS[name]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (-(-len(array) // batch_size) - 1)
    joined = np.concatenate(batches)
    np.testing.assert_array_equal(joined, array)
    assert batches[0].dtype == array.dtype


def test_no_rows_give_no_batches(path):
    assert list(npz_rows(path, "no_rows", 2)) == []


def test_shapes_equal_those_of_numpy(path):
    shapes = npz_shapes(path)
    assert shapes == {name: (array.shape, array.dtype) for name, array in ARRAYS.items()}


def test_at_most_two_batches_are_in_memory(tmp_path):
    array = np.zeros((50, 2**20), np.uint8)
    array[:, ::7] = 5
    np.savez_compressed(tmp_path / "large.npz", array)
    tracemalloc.start()
    try:
        total = sum(int(batch[0, 0]) for batch in npz_rows(tmp_path / "large.npz", "arr_0", 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 5 * 13  # every batch was read
    assert peak < (2 * 4 + 3) * 2**20  # and 3 pieces


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arr_1", "no array 'arr_1'; the arrays in it are: arr_0, mu"),
        ("scalar", r"shape \(\) .* plain array"),
        ("columns", "Fortran order"),
        ("words", "dtype object"),
    ],
)
def test_arrays_that_cannot_be_streamed_are_refused_at_once(path, name, message):
    with pytest.raises(ValueError, match=message):
        npz_rows(path, name, 2)


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "alone.npy", np.zeros(3))
    for read in (npz_shapes, lambda path: npz_rows(path, "arr_0", 2)):
        with pytest.raises(ValueError, match=r"no file .*missing\.npz"):
            read(tmp_path / "missing.npz")
        for name in ("text.npz", "alone.npy"):
            with pytest.raises(ValueError, match=r"is no \.npz file"):
                read(tmp_path / name)
    with pytest.raises(ValueError, match="batch_size is 0"):
        npz_rows(tmp_path / "text.npz", "arr_0", 0)


def test_damaged_content_raises_when_it_is_reached(path, tmp_path):
    content = bytearray(path.read_bytes())
    start = content.find(b"arr_0.npy") + 200
    content[start : start + 40] = bytes(40)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.npz is damaged .* again"):
        list(npz_rows(damaged, "arr_0", 2))


def _claims(shape):
    """An .npy file without numbers, whose header claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((6, 2)))
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("a.npy", (tmp_path / "a.npy").read_bytes()[:-24])
        archive.writestr("other.npy", b"no header")
        archive.writestr("huge.npy", _claims((1, 10**14)))
    with pytest.raises(ValueError, match="a from row 4 on: it ends too early"):
        list(npz_rows(tmp_path / "short.npz", "a", 4))
    with pytest.raises(ValueError, match="huge from row 0 on"):
        list(npz_rows(tmp_path / "short.npz", "huge", 4))
    with pytest.raises(ValueError, match="is damaged"):
        npz_shapes(tmp_path / "short.npz")


def test_archives_that_cannot_be_unpacked_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    content = (tmp_path / "a.npz").read_bytes()
    entry = content.index(b"PK\x01\x02")
    for offset, byte, said in ((6, 99, "zip file version 9.9"), (8, 1, "a is encrypted")):
        changed = bytearray(content)
        changed[entry + offset] = byte
        (tmp_path / "b.npz").write_bytes(changed)
        with pytest.raises(ValueError, match=said):
            npz_shapes(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("a.npy", _claims((2,)).replace(b"(2,)", b"(2, "))
    with pytest.raises(ValueError, match="its header cannot be read"):
        npz_shapes(tmp_path / "c.npz")
