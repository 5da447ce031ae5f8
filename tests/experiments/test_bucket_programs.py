"""Programs whose files are all in a bucket, and their messages when it cannot be used."""

import re
import secrets
import sys

import jax
import numpy as np
import pytest

from experiments.common import cli, files
from gmflow_jax import interop
from gmflow_jax._files import BucketError, to_path, upload, upload_folder
from tests.bucket_server import BUCKET
from tests.refusing_server import SENTENCES, refusing

pytest.importorskip("gcsfs")
_SAMPLING = ("--num_steps=1", "--num_substeps=2")
_SCORES = ("--inception={root}/inception.safetensors", "--reference={root}/kept.npz")
_COMMANDS = {
    "sample": [
        "sample", "--checkpoint={root}/tiny/", "--num_samples=3", *_SAMPLING, "--out={root}/grid.png",
        "--images_out={root}/pictures", "--samples_out={root}/samples.npz",
    ],
    "evaluate": [
        "evaluate", "--samples={root}/samples.npz", _SCORES[0], "--reference={root}/adm.npz",
        "--metrics=colours", "--reference_out={root}/kept.npz", "--out={root}/of_file.json",
    ],
    "evaluate a folder": [
        "evaluate", "--samples={root}/pictures", *_SCORES, "--metrics=colours", "--out={root}/of_folder.json",
    ],
    "sweep": [
        "sweep", "--config=experiments/configs/sweep_digits.py", "--checkpoint={root}/tiny", *_SCORES,
        "--config.num_samples=8", "--config.num_steps=(1,)", "--config.guidance_scales=(0.3,)",
        "--config.rows=({'name': 'A', 'solver': 'euler'},)", "--metrics=fid,precision_recall",
        "--out={root}/sweeps/first",
    ],
    "export": [
        "export", "--checkpoint={root}/tiny", *_SAMPLING, "--solver=euler", "--noguided",
        "--out={root}/sampler.jaxexport",
    ],
}  # fmt: skip


def _contents(root):
    """The files below a folder, by their relative path, without those that were given and without times."""
    found, waiting = {}, [root]
    while waiting:
        for path in waiting.pop().iterdir():
            name = str(path).removeprefix(f"{root}/")
            if path.is_dir():
                waiting.append(path)
            elif name.endswith(".npz"):
                with path.open("rb") as file, np.load(file) as arrays:
                    found[name] = {key: value.tobytes() for key, value in arrays.items()}
            else:
                found[name] = path.read_bytes().replace(str(root).encode(), b"ROOT")
    return found


@pytest.fixture(scope="module")
def local(checkpoint, inception, tmp_path_factory):
    """A local folder with a checkpoint, a reference and the weights of Inception."""
    root = tmp_path_factory.mktemp("local")
    noise = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    np.savez(root / "adm.npz", arr_0=noise, mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    (root / "tiny").symlink_to(checkpoint)
    (root / "inception.safetensors").symlink_to(inception)
    (root / "sweeps").mkdir()
    return root


@pytest.fixture(scope="module")
def remote(local, bucket_url):
    """The same in a bucket."""
    root = to_path(f"gs://{BUCKET}/{secrets.token_hex(4)}")
    upload_folder((local / "tiny").resolve(), root / "tiny")
    for name in ("adm.npz", "inception.safetensors"):
        upload(local / name, root / name)
    return root


@pytest.mark.slow
def test_programs_write_the_same_files_into_a_bucket(local, remote, run_main, capsys, monkeypatch):
    printed = {}
    for root in (local, remote):
        for name, (program, *arguments) in _COMMANDS.items():
            capsys.readouterr()
            run_main(program, *(argument.replace("{root}", str(root)) for argument in arguments))
            printed[name, root] = capsys.readouterr().out.replace(str(root), "ROOT")
    for name in set(_COMMANDS) - {"sample"}:  # it prints seconds
        if name != "export":
            assert printed[name, remote] == printed[name, local]
    ours, theirs = _contents(remote), _contents(local)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, content in theirs.items():
        assert ours[name] == content, name
    # The same sweep again reads its cells and draws nothing.
    monkeypatch.setattr("experiments.scoring.image_evaluator.ImageEvaluator.score", None)
    run_main(*(argument.replace("{root}", str(remote)) for argument in _COMMANDS["sweep"]))
    assert "sweeps/first/cells/A_steps1_w0.3.json" in ours and _contents(remote) == ours


def test_a_diffusers_folder_in_a_bucket_is_complete_or_cannot_be_loaded(checkpoint, bucket, monkeypatch):
    bundle = interop.load_diffusers(checkpoint)
    uploaded = []

    def stop(source, path):
        uploaded.append(path.name)
        if len(uploaded) == 4:
            raise OSError("stopped")
        upload(source, path)

    with monkeypatch.context() as patch:
        patch.setattr("gmflow_jax._files._writing.upload", stop)
        with pytest.raises(OSError, match="stopped"):
            interop.save_diffusers(bucket / "half", bundle)
    assert "model_index.json" not in uploaded
    with pytest.raises(ValueError, match="holds neither model_index"):
        interop.load_diffusers(bucket / "half")
    interop.save_diffusers(bucket / "half", bundle)  # the same call finishes it
    assert interop.load_diffusers(bucket / "half").networks.keys() == bundle.networks.keys()
    interop.save_diffusers(f"{bucket}/whole/", bundle)
    loaded = interop.load_diffusers(bucket / "whole")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, bundle.params)
    assert loaded.id2label == bundle.id2label and loaded.networks.keys() == bundle.networks.keys()
    with pytest.raises(ValueError, match="exists and is not empty"):
        interop.save_diffusers(bucket / "whole", bundle)


def test_tensors_in_a_bucket_are_read_from_a_copy_that_is_removed(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    interop.save_safetensors(bucket / "a.safetensors", {"a": np.arange(3)})
    np.testing.assert_array_equal(interop.load_safetensors(bucket / "a.safetensors")["a"], np.arange(3))
    assert not list(tmp_path.iterdir())
    files.write_bytes(bucket / "b.safetensors", b"no tensors")
    with pytest.raises(ValueError, match=f"{bucket}/b.safetensors is not a readable safetensors file"):
        interop.load_safetensors(bucket / "b.safetensors")
    with pytest.raises(ValueError, match=f"There is no file {bucket}/c.safetensors"):
        interop.load_safetensors(bucket / "c.safetensors")


def test_the_hub_is_not_downloaded_to_a_bucket(run_main):
    with pytest.raises(cli.UserError, match="Download them to one, and copy it: gcloud storage cp -r"):
        run_main("download", "--out=gs://bucket/folder")


_CALLS = [  # there: in a bucket; here: a local checkpoint; tmp: a local folder
    ["sample", "--checkpoint={there}", "--out={there}/a.png"],
    ["sample", "--checkpoint={there}", "--out={tmp}/a.png"],
    ["sample", "--checkpoint={here}", "--out={tmp}/a.png", "--samples_out={there}/a.npz"],
    ["sample", "--workdir={there}", "--out={tmp}/a.png"],
    ["evaluate", "--checkpoint={here}", "--out={there}/a.json"],
    ["evaluate", "--workdir={there}"],
    ["evaluate", "--workdir={there}", "--out={tmp}/a.json"],
    ["evaluate", "--samples={there}/a.npz", "--out={tmp}/a.json"],
    ["sweep", "--config=experiments/configs/sweep_digits.py", "--out={there}", "--workdir={here}"],
    ["export", "--checkpoint={there}", "--out={tmp}/sampler.jaxexport"],
    ["export", "--checkpoint={here}", "--out={there}/sampler.jaxexport"],
    ["solver_study", "--out={there}"],
    ["compile", "--config=experiments/configs/digits.py", "--target=h200", "--out={there}/a.json"],
    ["benchmarks.full_size", "--folder={there}"],
]


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_pictures_need_a_folder(run_main, bucket, tmp_path, where):
    taken = (tmp_path if where == "local" else bucket) / "taken.npz"
    files.write_text(taken, "")
    with pytest.raises(cli.UserError, match=r"taken.npz exists and is a file, but must be a folder"):
        run_main("sample", "--checkpoint=x", f"--out={tmp_path / 'a.png'}", f"--images_out={taken}")


@pytest.fixture
def calls(checkpoint, tmp_path):
    """Calls of programs that name a bucket; none may leave a file."""
    places = {"{there}": "gs://bucket/x", "{here}": str(checkpoint), "{tmp}": str(tmp_path)}
    yield [[re.sub("{.*}", lambda m: places[m[0]], argument) for argument in call] for call in _CALLS]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [401, 403])
def test_programs_name_what_a_bucket_refuses_before_any_work(calls, run_main, status):
    with refusing(status):
        for call in calls:
            with pytest.raises(cli.UserError, match=SENTENCES[status]):
                run_main(*call)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["sample", "--checkpoint=gs://missing/x", "--out=a.png"], "There is no folder gs://missing/x"),
        (["sample", "--workdir=gs://missing/x", "--out=a.png"], "The workdir gs://missing/x does not exist"),
        (["sample", "--checkpoint=x", "--out=gs://missing/a.png"], "gs://missing/.*there is no such bucket"),
        (["evaluate", "--samples=gs://missing/a.npz", "--out=a.json"], "There is no file gs://missing/a.npz"),
        (["export", "--checkpoint=x", "--out=gs://"], "gs:// names no bucket"),
    ],
)
def test_a_missing_bucket_is_named(run_main, bucket_url, call, said):
    with pytest.raises(cli.UserError, match=said):
        run_main(*call)


def test_without_the_packages_the_programs_say_what_to_install(calls, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    for call in calls:
        with pytest.raises(cli.UserError, match="with its extra buckets, for instance pip install"):
            run_main(*call)


def test_the_probe_leaves_nothing(bucket):
    files.check_parent(bucket / "report.json")
    assert not bucket.is_dir()
    files.write_text(bucket / "file", "")
    with pytest.raises(ValueError, match=r"The folder of .*/file/report.json does not exist"):
        files.check_parent(bucket / "file" / "report.json")
    with refusing(403), pytest.raises(BucketError, match=SENTENCES[403]):
        files.check_parent("gs://bucket")
