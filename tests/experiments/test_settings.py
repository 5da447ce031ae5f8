"""Settings that cannot work are refused before the folder of a run is made."""

import importlib
import json
import math

import numpy as np
import pytest

from experiments.common import cli
from experiments.tasks import make
from experiments.tasks.digits import DigitsTask
from experiments.training import checks, fit
from gmflow_jax import data

_REFUSED = [
    ("network.num_classes", (0, 5, 9), r"digits have 10 classes, but the network has \d, .*num_classes=10"),
    ("optimizer.learning_rate", (math.nan, math.inf, -1e-3), "learning_rate is"),
    ("optimizer.b1", (1.0,), "b1 is"),
    ("optimizer.b2", (1.5, math.nan), "b2 is"),
    ("optimizer.weight_decay", (-0.1, math.nan), "weight_decay is"),
    ("optimizer.clip_norm", (-1.0, math.nan), "clip_norm is"),
    ("optimizer.warm_up_steps", (-1,), "warm_up_steps is"),
    ("optimizer.end_ratio", (math.nan,), "end_ratio is"),
    ("loss.class_dropout_prob", (1.5, math.nan), "class_dropout_prob is"),
    ("ema.max_decay", (1.5, math.nan), "max_decay is"),
    ("ema.kind", ("karras", "none"), "config.ema cannot be used|ema.kind is 'none'"),
    ("report.num_steps", ((0,), (-1,), (2.5,), ()), "The report cannot be made|report.num_steps is empty"),
    ("report.shift", (-1.0, 0.0, math.nan, math.inf), "report.shift is"),
    ("report.num_seeds", (0, -1), "report.num_seeds is"),
    ("report.rows", ((3,), (dict(name="a", solver="b"),)), "The report cannot be made"),
    ("seed", (-1, 2**32), "seed is"),
    ("num_steps", (0, 2**31), "num_steps is"),
    ("batch_size", (0, -8), "batch_size is"),
    ("num_microbatches", (0, 3), "cannot be cut into"),
    ("log_every", (0,), "log_every is"),
    ("checkpoint_every", (0,), "checkpoint_every is"),
    ("sample_every", (-1,), "sample_every is"),
    ("eval_batches", (0,), "eval_batches is"),
    ("post_hoc_ema", (dict(stds=(math.nan,), every=2), dict(stds=(-0.1,), every=2)), "relative widths lie"),
]


def settings(name, field=None, value=None):
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    *parents, last = field.split(".") if field else [""]
    part = config
    for parent in parents:
        part = part[parent]
    if field:
        with part.ignore_type():
            part[last] = value
    return config


@pytest.mark.parametrize(("field", "values", "said"), _REFUSED, ids=[field for field, *_ in _REFUSED])
def test_values_that_cannot_work_are_refused(field, values, said, tmp_path):
    for value in values:
        with pytest.raises(cli.UserError, match=said):
            fit.fit_run(settings("digits", field, value), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tasks_and_networks_that_do_not_fit_are_refused(tmp_path):
    for task, said in (("digits", "have 10 classes"), ("fake", "needs a network of images")):
        with pytest.raises(cli.UserError, match=said):
            fit.fit_run(settings("checkerboard", "task", task), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_of_a_task_of_ones_own_are_checked(tmp_path, monkeypatch):
    """Labels that count from 1 would train the last class as the null label."""

    class FromOne(DigitsTask):
        def batches(self, batch_size, seed):
            x_0, labels = self.training_data
            return data.Batches({"x_0": x_0, "labels": labels + 1}, batch_size, seed)

    monkeypatch.setitem(make.SCORED, "from_one", FromOne)
    with pytest.raises(cli.UserError, match=r"labels are from 1 to 10, .* from 0 to 9\. Count the classes"):
        fit.fit_run(settings("digits", "task", "from_one"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_turned_upright_are_other_data(tmp_path):
    latents = dict.fromkeys(checks._DATA_FIELDS, 1) | {"exif_orientation": False}
    older = {name: value for name, value in latents.items() if name != "exif_orientation"}
    (tmp_path / "latents.json").write_text(json.dumps(older))
    checks.check_folder(tmp_path, {"config": {}, "latents": latents})
    with pytest.raises(ValueError, match=r"exif_orientation was .* and is now True"):
        (tmp_path / "latents.json").write_text(json.dumps(latents))
        checks.check_folder(tmp_path, {"config": {}, "latents": latents | {"exif_orientation": True}})


def test_random_latents_without_classes_have_the_null_label():
    batch = data.FakeLatentBatches((2, 2, 1), num_classes=0, batch_size=3)(0)
    np.testing.assert_array_equal(batch["labels"], 0)
