"""The likelihood of exact networks against closed forms, and the report of runs whose value is known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import cli, files
from experiments.configs import checkerboard, digits_flow, digits_spectrum
from experiments.runs import networks
from experiments.scoring.likelihood import conditional_nll, draw_nll, report_nll
from experiments.training import steps
from gmflow_jax import data, evaluation, training
from gmflow_jax.gm import Gaussian

MEAN, STD = 1.5, 0.5  # of the data of `exact_gaussian`


def exact_gaussian(_):
    """A model without parameters: the posterior of data N(MEAN, STD^2 I), whatever the labels."""

    def denoise(x_t, t):
        t = t[:, None]
        var = STD**2 * t**2 / (t**2 + (1 - t) ** 2 * STD**2)
        return Gaussian(var * (x_t * (1 - t) / t**2 + MEAN / STD**2), var[:, 0])

    return lambda labels: denoise, None


def gaussian_nll(start, stop, num_dims):
    """The time average, in nats, of the entropy of that posterior: D / 2 (1 + log 2 pi var(t))."""
    t = start + (np.arange(100_000) + 0.5) / 100_000 * (stop - start)
    var = 1 / ((1 - t) ** 2 / t**2 + 1 / STD**2)
    return num_dims / 2 * (1 + np.log(2 * np.pi * var)).mean()


def test_an_exact_network_has_the_entropy_of_its_posterior():
    x_0 = MEAN + STD * np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    labels = np.zeros(4000, np.int32)
    nll = draw_nll(exact_gaussian, None, x_0, labels, num_times=8, batch_size=4000)
    assert nll.shape == (1, 8, 4000)
    for part, (start, stop) in ((nll, (0, 1)), (nll[:, :2], (0, 0.25)), (nll[:, 6:], (0.75, 1))):
        standard_error = part.mean((0, 1)).std() / 4000**0.5
        assert abs(part.mean() - gaussian_nll(start, stop, 3)) < 3 * standard_error


def test_draws_depend_neither_on_the_batches_nor_on_the_other_samples():
    x_0, labels = np.ones((7, 2), np.float32), np.zeros(7, np.int32)
    together = draw_nll(exact_gaussian, None, x_0, labels, 2, batch_size=7)
    fewer = draw_nll(exact_gaussian, None, x_0[:5], labels[:5], 2, batch_size=3)
    np.testing.assert_allclose(fewer, together[..., :5], rtol=1e-5)
    assert len(np.unique(together.round(3))) == 14


def test_the_right_spectrum_gives_the_joint_likelihood_of_a_stationary_field():
    """Per sample within 1e-4 of the joint density, by float64 matrices; without the spectrum it is worse."""
    height, width, channels, t = 3, 4, 2, 0.6
    rows, columns = np.divmod(np.arange(height * width), width)
    angle = 2 * np.pi * (np.outer(rows, rows) / height + np.outer(columns, columns) / width)
    waves = (np.cos(angle) - np.sin(angle)) / np.sqrt(height * width)  # of which each is a column
    frequency = np.minimum(rows, height - rows) + np.minimum(columns, width - columns)
    cov = waves @ np.diag(4 * np.exp(-1.2 * frequency)) @ waves.T

    posterior = np.linalg.inv(np.linalg.inv(cov) + ((1 - t) / t) ** 2 * np.eye(len(cov)))
    gain = posterior * (1 - t) / t**2
    power = np.diag(waves.T @ posterior @ waves)
    var = np.diag(posterior)[0]  # the same for each pixel

    def denoise(x_t, _):  # exact at this t, for each pixel on its own
        mean = jnp.einsum("pq,bqd->bpd", jnp.float32(gain), x_t.reshape(len(x_t), -1, channels))
        return Gaussian(mean.reshape(x_t.shape), jnp.float32(var))

    def spectrum(gaussian):
        log_power = jnp.float32(np.log(power)).reshape(1, height, width, 1)
        return jnp.broadcast_to(log_power, gaussian.mean.shape) - jnp.log(gaussian.var)[..., None]

    rng = np.random.default_rng(0)
    x_0 = np.einsum("pq,bqd->bpd", np.linalg.cholesky(cov), rng.normal(size=(500, 12, channels)))
    noise = rng.normal(size=x_0.shape)
    shape = (500, height, width, channels)
    inputs = jnp.float32(x_0).reshape(shape), jnp.full(500, t), jnp.float32(noise).reshape(shape)
    independent, joint = jax.jit(lambda *inputs: conditional_nll(denoise, *inputs, spectrum))(*inputs)

    error = x_0 - np.einsum("pq,bqd->bpd", gain, (1 - t) * x_0 + t * noise)
    distance = np.einsum("bpd,pq,bqd->b", error, np.linalg.inv(posterior), error)
    log_det = np.linalg.slogdet(2 * np.pi * posterior)[1]
    np.testing.assert_allclose(joint, (distance + channels * log_det) / 2, rtol=1e-4)
    saved = np.mean(independent - joint)
    assert saved == pytest.approx(channels / 2 * np.log(var / power).sum(), rel=0.1)
    assert saved > 1


def untrained(folder, config, value=0.0):
    """Write a run to `folder` whose parameters are all `value`; 0 predicts the velocity N(0, I) for any K."""
    folder.mkdir()
    files.write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
    params = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, value), jax.eval_shape(lambda: networks.init_params(config))
    )
    with training.Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save_state(training.init_state(params, steps.make_optimizer(config)))
    return str(folder)


def tiny(config, num_components):
    config.network.update(hidden_size=16, depth=1, num_heads=2, num_components=num_components)
    return config


def small_board():
    config = checkerboard.get_config()
    config.network.update(width=16, depth=1, num_components=2)
    return config


@pytest.fixture(scope="module")
def digit_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        untrained(folder / "flow", tiny(digits_flow.get_config(), 1)),
        untrained(folder / "spectrum", tiny(digits_spectrum.get_config(), 2)),
    ]


def test_report_of_runs(digit_runs, tmp_path, capsys):
    """The velocity N(0, I) has a closed form: (1 + E x_0^2) / 2 + log(2 pi) / 2 - 1 nats a dimension."""
    out = tmp_path / "nll.json"
    rows = report_nll(digit_runs, out, num_times=4)
    nats = (np.square(data.digits().images).mean() + np.log(2 * np.pi) - 1) / 2
    expected = evaluation.bits_per_dim(nats, 1)
    report = json.loads(out.read_text())
    assert [(row["num_components"], row["spectrum"]) for row in report["rows"]] == [
        (1, False), (2, False), (2, True),
    ]  # fmt: skip
    for row, found in zip(rows, report["rows"], strict=True):
        assert found["nll"]["mean"] == pytest.approx(row.bits.mean(), abs=1e-6)
        assert abs(row.bits.mean() - expected) < 3 * found["nll"]["standard_error"]
        np.testing.assert_allclose(row.bits, rows[0].bits, atol=1e-5)  # the same draws
    for row in report["rows"][1:]:
        assert row["difference_to_row_above"]["mean"] == pytest.approx(0, abs=1e-6)
    printed = capsys.readouterr().out
    assert "bits/dim" in printed and f"{digit_runs[0]} (plain flow, std 1)" in printed


def test_evaluate_measures_points_and_writes_beside_the_first_run(tmp_path, run_main):
    workdir = untrained(tmp_path / "run", small_board())
    run_main("evaluate", "--metrics=nll", f"--workdir={workdir}")
    report = json.loads((tmp_path / "run" / "nll_report.json").read_text())
    assert (report["num_dims"], len(report["rows"])) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples=samples.npz"], "--metrics=nll needs a run"),
        (["--workdir=/nowhere"], "does not exist"),
        (["--workdir={}", "--out=nll.txt"], "must end in .json"),
    ],
)
def test_impossible_options_are_refused(digit_runs, arguments, said, run_main):
    with pytest.raises(cli.UserError, match=said):
        run_main("evaluate", "--metrics=nll", *(a.format(digit_runs[0]) for a in arguments))


def test_runs_of_different_tasks_share_no_table(digit_runs, tmp_path):
    other = untrained(tmp_path / "board", checkerboard.get_config())
    with pytest.raises(cli.UserError, match="different tasks"):
        report_nll([digit_runs[0], other], tmp_path / "nll.json")


def test_runs_on_other_data_share_no_table(digit_runs, tmp_path):
    config = tiny(digits_flow.get_config(), 1)
    config.data.held_out = 360
    other = untrained(tmp_path / "held_out", config)
    with pytest.raises(cli.UserError, match=r"held_out was trained on other data than .*/flow, such as"):
        report_nll([digit_runs[0], other], tmp_path / "nll.json")


def test_a_network_that_diverges_is_named(tmp_path):
    workdir = untrained(tmp_path / "board", small_board(), value=np.nan)
    with pytest.raises(cli.UserError, match=r"board: .* are NaN or infinite, at times between 0 and 1"):
        report_nll([workdir], tmp_path / "nll.json", num_times=4)
    assert not (tmp_path / "nll.json").exists()
