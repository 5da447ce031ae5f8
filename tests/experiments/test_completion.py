"""Completions of images whose other pixels are known: files, masks, methods and the picture."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.common import cli, figures
from experiments.common.masks import HALVES, read_mask
from experiments.runs.completion import Request
from experiments.runs.known import Known
from experiments.tasks.digits import DigitsTask
from gmflow_jax import data, flow, pipeline, solvers
from gmflow_jax._files import write_arrays, write_bytes

_SIZE = (8, 8)
_LOWER = np.arange(8)[:, None].repeat(8, 1) >= 4


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def images(digits, tmp_path_factory):
    """A file of five digits with labels."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=data.to_unit_range(digits.images[:5]), labels=digits.labels[:5])
    return path


@pytest.mark.parametrize(
    ("arguments", "labels", "said"),
    [
        (["--num_samples=7"], [0, 1, 2, 3, 4, 0, 1], "7 completions: class accuracy"),
        (["--condition_method=replace", "--classes=none"], range(5), "5 completions: class accuracy"),
    ],
)
def test_known_pixels_stay_and_the_others_are_drawn(
    untrained, images, run_main, tmp_path, capsys, arguments, labels, said
):
    out = tmp_path / "samples.npz"
    run_main(
        "sample", f"--workdir={untrained}", f"--condition={images}", "--mask=lower", "--num_steps=1",
        f"--out={tmp_path / 'grid.png'}", f"--samples_out={out}", f"--images_out={tmp_path / 'each'}",
        *arguments,
    )  # fmt: skip
    drawn, given = np.load(out), np.load(images)["images"][..., 0]
    assert list(drawn["labels"]) == list(labels)
    given = given[np.arange(len(labels)) % 5]
    np.testing.assert_allclose(drawn["samples"][:, :4], given[:, :4], atol=1e-6)
    assert np.abs(drawn["samples"][:, 4:] - given[:, 4:]).max() > 0.1
    assert said in capsys.readouterr().out
    with Image.open(tmp_path / "grid.png") as picture:
        assert (np.asarray(picture) == figures._UNKNOWN).all(-1).sum() == 5 * 20 * 40
    assert (tmp_path / "each" / "00001_1_one.png").exists()


@pytest.mark.slow
def test_a_checkpoint_completes_images(checkpoint, run_main, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images)
    asked = ("sample", f"--checkpoint={checkpoint}", f"--condition={tmp_path / 'images.npz'}",
             "--num_steps=1", f"--out={tmp_path / 'grid.png'}", f"--samples_out={tmp_path / 'out.npz'}")
    run_main(*asked, "--mask=left", "--classes=jay,3", "--num_samples=3")
    drawn, mask = np.load(tmp_path / "out.npz"), read_mask("left", 3, (16, 16))
    pipe = pipeline.load(checkpoint)
    expected = pipe.edit(images[[0, 1, 0]], mask, [0, 3, 0], num_steps=1)
    np.testing.assert_array_equal(drawn["arr_0"], expected)
    assert list(drawn["labels"]) == [0, 3, 0]
    for arguments, said in (
        (["--mask=left"], "has no labels: give --classes"),
        (["--mask=left", "--classes=none"], "none is for completions of runs on digits"),
        (["--mask=left", "--classes=jay", "--condition_method=replace"], "replace is for runs on digits"),
        (["--mask=left", "--classes=jay", "--condition_std=0.1"], "--condition_std is for digits"),
    ):
        with pytest.raises(cli.UserError, match=said):
            run_main(*asked, *arguments)


def test_replacement_adds_fresh_noise_of_each_time():
    x_0 = jnp.full((2000, 2, 1), 3.0)
    var = jnp.broadcast_to(jnp.array([0.0, jnp.inf]), (2000, 2))
    denoise, solver = Known(x_0, var, "replace").condition(
        flow.denoiser(lambda x_t, t: jnp.zeros_like(x_t), predicts="x_0"), solvers.euler()
    )
    noise = jnp.ones((2000, 2, 1))
    keys = jax.random.split(jax.random.key(0), 2000)
    states = solvers.sample(keys, denoise, noise, solver, flow.time_grid(2), return_trajectory=True)
    np.testing.assert_allclose(states[1, :, 0].mean(), 1.5, atol=0.05)
    np.testing.assert_allclose(states[1, :, 0].std(), 0.5, atol=0.05)
    np.testing.assert_array_equal(states[2, :, 0], x_0[:, 0])
    np.testing.assert_allclose(states[1:, :, 1, 0], np.array([[0.5], [0.0]]).repeat(2000, 1), atol=1e-6)


def test_masks_are_halves_or_files(tmp_path):
    halves = {name: read_mask(name, 3, (7, 8)) for name in HALVES}
    assert halves["lower"][0, 3:].all() and not halves["lower"][0, :3].any()
    assert halves["right"][0, :, 4:].all() and not halves["right"][0, :, :4].any()
    np.testing.assert_array_equal(halves["upper"], ~halves["lower"])
    np.testing.assert_array_equal(halves["left"], ~halves["right"])
    np.save(tmp_path / "mask.npy", _LOWER)
    np.savez(tmp_path / "mask.npz", mask=_LOWER.astype(np.float32)[None].repeat(3, 0))
    Image.fromarray(_LOWER).save(tmp_path / "mask.png")
    Image.fromarray(np.uint16(300) * _LOWER).save(tmp_path / "deep.png")
    for name in ("mask.npy", "mask.npz", "mask.png", "deep.png"):
        mask = read_mask(str(tmp_path / name), 3, _SIZE)
        assert mask.dtype == bool
        np.testing.assert_array_equal(np.broadcast_to(mask, (3, *_SIZE)), np.stack([_LOWER] * 3), name)


def test_masks_that_cannot_be_used_are_refused(tmp_path):
    np.save(tmp_path / "small.npy", _LOWER[:4])
    np.save(tmp_path / "nan.npy", np.full(_SIZE, np.nan))
    np.save(tmp_path / "words.npy", np.full(_SIZE, "a"))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=_LOWER, b=_LOWER)
    (tmp_path / "text.png").write_text("no picture")
    np.savez(tmp_path / "empty.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)}
    )
    (tmp_path / "claims.npy").write_bytes(header.getvalue())
    (tmp_path / "damaged.npy").write_bytes(header.getvalue().replace(b"8)", b"8 "))
    (tmp_path / "short.npy").write_bytes((tmp_path / "small.npy").read_bytes().replace(b"(4, 8)", b"(8, 8)"))
    Image.fromarray(_LOWER).save(tmp_path / "jpeg.png", "JPEG")
    Image.new("L", (1000, 1000)).save(tmp_path / "large.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    Image.new("RGBA", _SIZE, (255, 255, 255, 100)).save(tmp_path / "clear.png")
    refused = {
        "middle": "--mask is middle, but must be lower, upper, left, right, or a",
        "mask.jpg": "or a .png, .npy or .npz file",
        "nowhere.png": "There is no file",
        "empty.npz": "its arrays are: none",
        "claims.npy": r"has shape \(1000000000000, 8\), but",
        "damaged.npy": "no .npy file, or it is damaged",
        "short.npy": "is damaged",
        "jpeg.png": "is no PNG picture",
        "large.png": r"has shape \(1000, 1000\), but",
        "huge.png": "is no PNG picture, or it is damaged",
        "small.npy": r"has shape \(4, 8\), but the images have shape \(3, 8, 8\)",
        "nan.npy": "is NaN or infinite",
        "words.npy": "has dtype <U1",
        "objects.npy": "has dtype object",
        "two.npz": "must hold one array, the mask, but its arrays are: a, b",
        "text.png": "is no PNG picture",
        "clear.png": "transparent in places",
    }
    for name, said in refused.items():
        with pytest.raises(ValueError, match=said):
            read_mask(name if name == "middle" else str(tmp_path / name), 3, _SIZE)


def _read(path, mask="lower", std=0.0, colored=False):
    return Request(str(path), mask, "observe", std).read(_SIZE, 10, colored)


def test_images_are_read_from_every_name_and_dtype(tmp_path, digits):
    grey = data.to_unit_range(digits.images[:3])
    written = {
        "images": grey,
        "samples": grey[..., 0].astype(np.float64),
        "arr_0": (255 * grey[..., 0]).astype(np.uint8),
    }
    for name, array in written.items():
        np.savez(tmp_path / "a.npz", **{name: array})
        given = _read(tmp_path / "a.npz")
        assert given.images.dtype == np.float32 and given.labels is None
        np.testing.assert_allclose(given.images, grey[..., 0], atol=1 / 255)
    noisy = grey + np.float32(0.5)
    np.savez(tmp_path / "a.npz", images=noisy, labels=digits.labels[:3])
    given = _read(tmp_path / "a.npz", mask=None, std=0.5)
    known = given.known(DigitsTask(), 4)
    np.testing.assert_allclose(known.var, np.ones((4, 4, 4)))  # pixels of x_0 have twice the range
    np.testing.assert_allclose(known.x_0[3], DigitsTask().encode(noisy[:1, ..., 0])[0])
    given.draw(tmp_path / "a.png", grey)
    with Image.open(tmp_path / "a.png") as noisy_picture:
        dataclasses.replace(given, images=grey[..., 0], std=0.0).draw(tmp_path / "b.png", grey)
        with Image.open(tmp_path / "b.png") as picture:  # which has the row of the originals, too
            assert noisy_picture.height < picture.height
    with pytest.raises(ValueError, match=r"to 1\.5, .* in \[0, 1\], with --condition_std=0\.05 at most 0\.4"):
        _read(tmp_path / "a.npz", mask=None, std=0.05)
    colored = np.zeros((2, *_SIZE, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=colored)
    assert _read(tmp_path / "a.npz", colored=True).images.shape == colored.shape


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": np.zeros((2, 8, 8))}, "named images, samples or arr_0, but its arrays are: pictures"),
        ({"images": np.zeros((2, 8, 8)), "arr_0": np.zeros((2, 8, 8))}, "its arrays are: images, arr_0"),
        ({"images": np.zeros((2, 8, 9))}, r"have shape \(2, 8, 9\)"),
        ({"images": np.zeros((2, 8, 8, 3))}, r"have shape \(2, 8, 8, 3\)"),
        ({"images": np.zeros((0, 8, 8))}, r"have shape \(0"),
        ({"images": np.zeros((2, 8, 8), int)}, "have dtype int64; give"),
        ({"images": np.full((2, 8, 8), np.nan)}, "are NaN or infinite"),
        ({"images": np.full((2, 8, 8), -1.0)}, r"range from -1 to -1, but pixels must be in \[0, 1\]"),
        ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(3, int)}, r"labels in .* have dtype int64 and"),
        ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(2)}, r"labels in .* have dtype float64"),
        ({"images": np.zeros((2, 8, 8)), "labels": np.array([0, 10])}, "0 to 10, but those of the network"),
    ],
)
def test_images_that_cannot_be_used_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        _read(tmp_path / "a.npz")


def test_requests_that_cannot_work_are_refused(tmp_path, images, untrained, run_main):
    np.save(tmp_path / "odd.npy", np.arange(8)[:, None].repeat(8, 1) >= 3)
    for mask, said in (("zeros", "no pixel to draw anew"), ("ones", "leaves no pixel known")):
        np.save(tmp_path / f"{mask}.npy", getattr(np, mask)(_SIZE))
        with pytest.raises(ValueError, match=said):
            _read(images, str(tmp_path / f"{mask}.npy"))
    with pytest.raises(ValueError, match="but must be uint8"):
        _read(images, colored=True)
    condition = f"--condition={images}"
    for arguments, said in (
        (["--mask=lower"], "--mask is for completions; give --condition"),
        ([condition], "--condition needs --mask"),
        ([condition, "--condition_std=-1"], "--condition_std is -1.0, but must be"),
        ([condition, "--condition_std=1e200"], "--condition_std is 1e\\+200, but must be"),
        ([condition, "--condition_std=1e30"], "--condition_std is 1e\\+30, but must be"),
        ([condition, "--condition_std=1e-30"], "--condition_std is 1e-30, but must be"),
        (["--condition="], "--condition is empty"),
        (["--classes=none"], "none is for completions of runs on digits"),
        ([condition, "--mask=lower", "--solver=ddpm_large"], "adds noise in its last step"),
        ([condition, "--mask=lower", "--classes=none", "--guidance_scale=0.3"], "have none: leave it out"),
        ([condition, "--condition_std=1", "--condition_method=replace"], "--condition_std has no effect"),
        (["--condition=nowhere.npz", "--mask=lower"], "There is no file nowhere.npz"),
        ([condition, f"--mask={tmp_path / 'odd.npy'}"], "block of 2 x 2 pixels at row 2 and column 0"),
        ([condition, "--mask=lower", "--classes=ten"], "no class 'ten'"),
    ):
        with pytest.raises(cli.UserError, match=said):
            run_main("sample", f"--workdir={untrained}", f"--out={tmp_path / 'a.png'}", *arguments)
    assert not (tmp_path / "a.png").exists()


def test_files_may_be_in_a_bucket(bucket, digits):
    write_arrays(bucket / "images.npz", samples=data.to_unit_range(digits.images[:2]))
    write_arrays(bucket / "mask.npz", mask=_LOWER)
    write_bytes(bucket / "bad.png", b"no picture")
    given = _read(bucket / "images.npz", str(bucket / "mask.npz"))
    np.testing.assert_array_equal(given.mask[1], _LOWER)
    with pytest.raises(ValueError, match=f"{bucket}/bad.png is no PNG picture"):
        _read(bucket / "images.npz", str(bucket / "bad.png"))
    with pytest.raises(ValueError, match=f"There is no file {bucket}/none.npy"):
        _read(bucket / "images.npz", str(bucket / "none.npy"))


def test_digits_that_are_held_out_are_not_trained_on(digits):
    task = DigitsTask(360)
    x_0, labels = task.training_data
    assert len(x_0) == len(labels) == 1437 == len(task.labels) - 360
    assert task.batches(1437, 0)(0)["labels"].sum() == digits.labels[:1437].sum()
    np.testing.assert_allclose(task.decode(task.encode(task.decode(x_0))), task.decode(x_0), atol=1e-6)
    for held_out in (-1, 1797, 0.5, True):
        with pytest.raises(ValueError, match=f"data.held_out is {held_out}, but must be"):
            DigitsTask(held_out)


def test_the_picture_shows_full_rows_of_completions(tmp_path):
    given = np.zeros((3, 80, 80, 3), np.uint8)
    completions = np.full((7, 80, 80, 3), 9, np.uint8)
    mask = np.ones((3, 80, 80), bool)
    figures.completion_grid(tmp_path / "a.png", given, mask, completions, ["", "", ""])
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels == 9).all(-1).sum() == 2 * 3 * 80 * 80
    assert (pixels == figures._UNKNOWN).all(-1).sum() == (pixels == 0).all(-1).sum() == 3 * 80 * 80
