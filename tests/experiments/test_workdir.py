"""The folder of a run: who may train in it, what may change, what is kept if the disk is full."""

import json
import shutil

import pytest

from experiments.common import cli, files, lock
from experiments.configs import digits
from experiments.runs import bundles, folder
from experiments.training import fit
from gmflow_jax import training
from gmflow_jax._files import BucketError, read_bytes, to_path
from tests.helpers import file_limit
from tests.refusing_server import SENTENCES, refusing


@pytest.fixture(scope="module")
def config():
    config = digits.get_config()
    config.network.update(hidden_size=16, depth=1, num_heads=2, num_components=2)
    return config


def test_training_is_refused_in_a_folder_that_is_in_use(config, tmp_path):
    with lock.hold(tmp_path):
        with pytest.raises(cli.UserError, match=r"in use by process \d+ on .* give another --workdir"):
            fit.fit_run(config, tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == [lock.NAME]


def _config(num_steps, schedule="constant", **changes):
    return {"num_steps": num_steps, "seed": 0, "optimizer": {"schedule": schedule}, **changes}


def test_a_run_with_a_constant_rate_may_become_longer_or_shorter(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(path, _config(100))
    for num_steps in (100, 150, 50):
        folder.check_unchanged(path, _config(num_steps), "configuration")
    with pytest.raises(ValueError, match=r"\(seed was 0 and is now 1\).* same configuration\.$"):
        folder.check_unchanged(path, _config(150, seed=1), "configuration")
    with pytest.raises(ValueError, match="schedule was constant and is now cosine"):
        folder.check_unchanged(path, _config(150, "cosine"), "configuration")


def test_fields_that_older_versions_did_not_write_have_their_value(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(path, _config(100, data={}))
    folder.check_unchanged(path, _config(100, data={"held_out": 0}, exif_orientation=False), "configuration")
    for said, changes in {
        "data.held_out was 0 and is now 1": {"data": {"held_out": 1}},
        "data.other was None and is now 0": {"data": {"other": 0}},
        "exif_orientation was False and is now True": {"exif_orientation": True},
    }.items():
        with pytest.raises(ValueError, match=said):
            folder.check_unchanged(path, _config(100, **changes), "configuration")


@pytest.mark.parametrize("num_steps", [50, 150])
def test_a_run_whose_rate_depends_on_its_length_says_what_to_do_instead(tmp_path, num_steps):
    path = tmp_path / "config.json"
    files.write_json(path, _config(100, "cosine"))
    said = f"num_steps was 100 and is now {num_steps}.* follows a cosine over num_steps.* in a new folder"
    with pytest.raises(ValueError, match=said):
        folder.check_unchanged(path, _config(num_steps, "cosine"), "configuration")


def test_a_full_disk_says_where_the_run_continues(tmp_path):
    with training.Snapshots(tmp_path / "checkpoints") as snapshots:
        for step, said in ((None, "The run then starts again"), (40, "The run then continues after step 40")):
            if step:
                snapshots.save(step, {}, {})
                snapshots.wait()
            with (
                pytest.raises(cli.UserError, match=rf"table.csv: File too large\..* {said}"),
                file_limit(1000),
                fit._keeping(tmp_path / "checkpoints"),
            ):
                files.write_text(tmp_path / "table.csv", "1" * 2000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoints"]


def test_a_checkpoint_that_the_training_deletes_while_it_is_read_is_no_error(tmp_path, monkeypatch):
    read = training.Snapshots.restore

    def delete_and_read(self, step=None, **targets):
        shutil.rmtree(tmp_path / "8", ignore_errors=True)
        return read(self, step, **targets)

    with training.Snapshots(tmp_path) as snapshots:
        for step in (4, 8):
            snapshots.save(step, {}, {"step": step})
    monkeypatch.setattr(training.Snapshots, "restore", delete_and_read)
    assert bundles._restore_newest(tmp_path)["meta"] == {"step": 4}


def test_reports_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    files.write_json(path, {"old": 1})
    said = r"report.json: File too large\. Complete files are unchanged"
    with pytest.raises(cli.UserError, match=said), file_limit(1000), cli.report_user_errors():
        files.write_json(path, {"new": "1" * 2000})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_tilde_is_the_home_folder_in_every_path(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expand_home("~/a.tar,b~.tar,~/c") == f"{tmp_path}/a.tar,b~.tar,{tmp_path}/c"
    with pytest.raises(ValueError, match="no home folder ~nobody_here"):
        files.expand_home("~nobody_here/x")
    config = config.copy_and_resolve_references()
    config.data.update(folder="~/latents", eval_folder="~/others")
    config.update(autoencoder="~/vae", inception="~/inception.npz", reference="~/reference.npz")
    fit._expand_home(config)
    assert (config.data.folder, config.data.eval_folder) == (f"{tmp_path}/latents", f"{tmp_path}/others")
    assert config.autoencoder == f"{tmp_path}/vae"
    assert config.inception == f"{tmp_path}/inception.npz"
    assert config.reference == f"{tmp_path}/reference.npz"


def test_a_tilde_is_the_home_folder_in_flags(run_main, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    with pytest.raises(cli.UserError, match=f"The folder {tmp_path}/run holds no run"):
        run_main("sample", "--workdir=~/run", f"--out={tmp_path}/x.png")
    with pytest.raises(cli.UserError, match=f"The folder {tmp_path}/run holds no run"):
        run_main("evaluate", "--workdir=~/run")


def test_an_address_at_which_no_run_can_live_is_refused(config, bucket):
    (bucket / "file").write_text("")
    for workdir, said in (
        (to_path("memory://bucket/run"), "cannot hold checkpoints"),
        (to_path("gs://missing/run"), "there is no such bucket"),
        (bucket / "file", "is a file, but a run needs a folder"),
    ):
        with pytest.raises(cli.UserError, match=f"{workdir}.* {said}"):
            fit.fit_run(config, workdir)
    assert [path.name for path in bucket.iterdir()] == ["file"] and not to_path("gs://missing").exists()


def test_a_run_in_a_bucket_that_fails_says_where_it_continues(bucket):
    path = bucket / "checkpoints"
    for said in ("", " The run then continues after step 40."):
        with (
            pytest.raises(cli.UserError, match=rf"there is no such bucket or file\. .*\){said}$") as caught,
            fit._keeping(path),
        ):
            read_bytes(bucket / "nothing")
        assert isinstance(caught.value.__cause__, BucketError)
        with training.Snapshots(path) as snapshots:
            snapshots.save(40, {}, {})


def test_training_in_a_bucket_is_refused_in_a_folder_that_is_in_use(config, bucket):
    with lock.hold(bucket), pytest.raises(cli.UserError, match=r"in use by process \d+"):
        fit.fit_run(config, bucket)
    assert not bucket.exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_without_permission_is_named_before_any_work(config, bucket_url, status):
    with refusing(status):
        workdir = to_path("gs://bucket/run")
        for use in (lambda: fit.fit_run(config, workdir), lambda: folder.read_config(workdir),
                    lambda: training.Snapshots(workdir), lambda: training.MetricWriter(workdir)):  # fmt: skip
            with pytest.raises((OSError, cli.UserError), match=f"gs://bucket/run.*: {SENTENCES[status]}"):
                use()
