"""The solver study: scores and references against closed forms, its verdicts, and the program."""

import csv
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import cli
from experiments.common.solver_choices import paper_substeps
from experiments.study import base, claims, contenders, problems, scores, substeps, sweep
from experiments.study.base import Record
from gmflow_jax import data, flow, solvers

CONTENDERS = {contender.name: contender for contender in contenders.all_contenders()}


def test_energy_distance_leaves_out_pairs_of_a_point_with_itself():
    distance = scores.energy_distance_to(np.array([[3.0], [5.0]]))
    # 2 (3 + 5 + 2 + 4) / 4 - |1 - 0| - |5 - 3|
    assert distance(np.array([[0.0], [1.0]])) == pytest.approx(4, abs=1e-5)
    with pytest.raises(ValueError, match="same D"):
        distance(np.zeros((2, 3)))


def test_energy_distance_of_normals():
    x = np.asarray(jax.scipy.special.ndtri((jnp.arange(2000.0) + 0.5) / 2000))[:, None]
    # |N(m, 2)| has mean 2 / sqrt(pi) exp(-m^2 / 4) + m erf(m / 2)
    expected = 4 / math.sqrt(math.pi) * (math.exp(-0.25) - 1) + 2 * math.erf(0.5)
    assert scores.energy_distance_to(x + 1)(x) == pytest.approx(expected, abs=0.002)
    samples = np.random.default_rng(0).normal(size=(2, 4000, 3))
    assert scores.energy_distance_to(samples[0])(samples[1]) == pytest.approx(0, abs=0.002)


def test_exact_board_points_score_one():
    found = scores.board_scores(np.asarray(data.checkerboard(jax.random.key(0), 40_000)))
    assert found["inside"] == 1 and found["off_board"] == 0
    for name in ("spread", "centre", "edge"):
        assert found[name] == pytest.approx(1, abs=0.02)
    assert scores.board_scores(np.full((10, 2), 4.5))["off_board"] == 1


def test_the_reference_follows_the_flow_of_one_gaussian():
    params = {"means": np.array([[0.5, -1.0]]), "log_weights": np.zeros(1), "ripple": np.float64(0)}
    x_1 = sweep.start_noise(20, 2, seed=0)
    endpoint = problems.flow_endpoint(params | {"log_std": np.log(0.3)}, x_1, 400)
    assert endpoint.dtype == np.float64
    np.testing.assert_allclose(endpoint, params["means"] + 0.3 * x_1.astype(np.float64), atol=1e-8)


@pytest.mark.parametrize("make", [problems.plane, problems.space])
def test_the_problems_are_standardised_and_their_error_is_a_tenth(make):
    network = make()
    samples = problems.sample_data(network, 20_000, seed=0)
    assert abs(samples.mean(0)).max() < 0.03
    assert samples.var(0).mean() == pytest.approx(1, abs=0.03)
    assert problems.relative_error(network, 500, 8) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", ["Heun", "DPM++ 2M SDE"])
def test_a_sweep_gives_the_samples_of_the_library(name, monkeypatch):
    monkeypatch.setattr(sweep, "BATCH_SIZE", 3)  # the last batch overlaps the one before
    network, contender = problems.plane(), CONTENDERS[name]
    x_1 = sweep.start_noise(5, 2, seed=0)
    cells = list(sweep.sweep(network, [contender], (1, 4), x_1, seed=1))
    assert [(c.variant, c.nfe) for c in cells] == [
        ("exact", 1), ("with error", 1), ("exact", 4), ("with error", 4),
    ]  # fmt: skip
    denoise = flow.denoiser(lambda x, t: problems.velocity(network.variants["with error"], x, t))
    times = flow.time_grid(contender.num_steps(4))
    expected = solvers.sample(jax.random.key(1), denoise, jnp.asarray(x_1), contender.solver, times)
    np.testing.assert_allclose(cells[-1].samples, expected, atol=1e-5)


def test_heun_spends_two_calls_a_step_but_one_in_the_last():
    heun = CONTENDERS["Heun"]
    assert [heun.num_calls(heun.num_steps(nfe)) for nfe in (1, 2, 4, 8)] == [1, 3, 5, 9]


def test_a_lost_first_call_makes_one_step_return_zero():
    x_1 = sweep.start_noise(4, 2, seed=0)
    (cell, _) = sweep.sweep(problems.plane(), [CONTENDERS["UniPC, call lost"]], (1,), x_1, seed=1)
    np.testing.assert_array_equal(cell.samples, 0)


def test_without_conversion_the_first_step_is_the_same_and_the_second_is_not():
    exact = problems.plane().variants[problems.EXACT]
    denoise = flow.denoiser(lambda x, t: problems.velocity(exact, x, t))
    x_1 = sweep.start_noise(50, 2, seed=0)

    def change(num_steps):
        with_, without = (
            solvers.sample(None, denoise, x_1, solver, flow.time_grid(num_steps))
            for solver in (
                solvers.gm_ode(2, paper_substeps(64, imagenet=False)),
                contenders.unconverted_gm_ode(64),
            )
        )
        return abs(with_ - without).max()

    assert change(1) < 1e-5
    assert change(2) > 0.01


def board_records(spread=1.0, edge=1.0, variation=lambda nfe: 0.1):
    """Return records with the same numbers for every solver and network."""
    metrics = {"spread": lambda nfe: spread, "edge": lambda nfe: edge, "total_variation": variation}
    return [
        Record("checkerboard", problem, name, nfe, nfe, metric, value(nfe))
        for problem in (claims.PLAIN, "K = 8", "K = 64")
        for name in CONTENDERS
        for nfe in (1, 2, 4, 8, 16, 32)
        for metric, value in metrics.items()
    ]


def verdicts(records):
    """Return the verdicts in the table of claims by the first words of claim and measure."""
    rows = [line.strip("| ").split(" | ") for line in claims.section(records).splitlines()[4:]]
    return {(sentence.split()[0], meaning.split(",")[0]): word for sentence, meaning, _, word in rows[2:]}


def test_verdicts_depend_on_the_numbers():
    uniform = verdicts(board_records())
    assert uniform["First-order", "Euler"] == uniform["DPM++", "UniPC"] == "**contradicted**"
    assert uniform["GM", "GM-SDE 1"] == uniform["With", "GM-ODE 1 and GM-ODE 2: TV within 0.02 at 2"]
    assert uniform["GM", "GM-SDE 1"] == uniform["K", "GM-ODE 2"] == "**confirmed**"
    assert uniform["Plain", "Euler"] == uniform["Without", "GM-ODE 2"] == "**contradicted**"
    inward, outward = verdicts(board_records(0.9, 0.9)), verdicts(board_records(1.1, 1.1))
    assert inward["First-order", "Euler"] == outward["DPM++", "UniPC"] == "**confirmed**"
    assert inward["GM", "GM-SDE 1"] == outward["GM", "GM-SDE 1"] == "**contradicted**"
    slow = verdicts(board_records(variation=lambda nfe: 1.5 / nfe))
    assert slow["Plain", "Euler"] == "**confirmed**" and slow["K", "GM-ODE 2"] == "**contradicted**"
    overshoot = [
        r._replace(value=1.05) if (r.solver, r.metric) == (contenders.UNCONVERTED, "spread") else r
        for r in board_records()
    ]
    assert verdicts(overshoot)["Without", "GM-ODE 2"] == "**confirmed**"
    assert set(verdicts([]).values()) == {"not measured"}


def study_of_two_solvers(run_main, out):
    """Run the program for Euler and GM-SDE 1; check its figures and numbers, and return their rows."""
    asked = ["--quick", "--checkerboard_steps=2", "--solver=Euler", "--solver=GM-SDE 1"]
    run_main("solver_study", f"--out={out}", *asked)
    with (out / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    exact = [f"{dims} {variant}" for dims in ("2-D", "16-D") for variant in ("exact", "with error")]
    assert {(row["problem"], row["solver"]) for row in rows if row["part"] != substeps.PART} == {
        *((problem, solver) for problem in (*exact, "K = 64") for solver in ("Euler", "GM-SDE 1")),
        ("plain flow", "Euler"),
    }
    assert all(math.isfinite(float(row["value"])) for row in rows)
    text = (out / "study.md").read_text()
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 6 and all(f"]({name})" in text for name in pictures)
    assert "not measured" in text
    return rows


def test_the_program_writes_tables_numbers_and_figures(tmp_path, capsys, run_main, monkeypatch):
    few = base.QUICK._replace(nfes=(1,), num_reference_steps=8, num_limit_steps=8)
    monkeypatch.setattr(base, "QUICK", few)
    monkeypatch.setattr(substeps, "_TOTAL_EVALUATIONS", (2,))
    monkeypatch.setattr(substeps, "_LATENTS", (1, 2, 2, 2, 4))
    rows = study_of_two_solvers(run_main, tmp_path)
    assert "study.md" in capsys.readouterr().out
    integrated = {(row["problem"], row["solver"]) for row in rows if row["part"] == substeps.PART}
    for name in ("euler", "midpoint", "heun"):  # two evaluations are too few for rk4
        assert integrated >= {("2-D exact", name), ("16-D exact", name)}


@pytest.mark.slow
def test_the_program_compares_all_integrators(tmp_path, run_main):
    rows = study_of_two_solvers(run_main, tmp_path)
    integrated = {(row["problem"], row["solver"]) for row in rows if row["part"] == substeps.PART}
    for name in substeps.EVALUATIONS:
        assert integrated >= {("2-D exact", name), ("16-D exact", name)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out is needed"),
        (["--checkerboard_steps=0"], "at least 1"),
        (["--solver=Magic"], "no solver 'Magic'"),
    ],
)
def test_bad_flags_are_refused(tmp_path, arguments, said, run_main):
    out = [f"--out={tmp_path}"] if arguments else []
    with pytest.raises(cli.UserError, match=said):
        run_main("solver_study", *out, *arguments)
