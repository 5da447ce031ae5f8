"""Joining processes by flags, environment variables and launchers."""

import jax
import pytest

from experiments.common import cli, cluster

ADDRESS = "host0:1234"


@pytest.fixture
def joined(monkeypatch):
    """The arguments of each call that would have joined the processes, with an empty environment."""
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS",
                 "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    return calls


def given(address=None, count=None, index=None):
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


@pytest.mark.parametrize("distributed", [None, False])
def test_a_single_process_joins_no_cluster(joined, distributed):
    cluster.join(distributed, None, None, None)
    assert joined == []


def test_flags_can_give_all_settings(joined):
    cluster.join(None, ADDRESS, 2, 0)
    assert joined == [given(ADDRESS, 2, 0)]


@pytest.fixture
def jax_variables(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", ADDRESS)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")


@pytest.mark.parametrize("distributed", [None, True])
def test_the_environment_completes_the_flags(joined, jax_variables, distributed):
    cluster.join(distributed, None, None, None)
    cluster.join(distributed, "host1:99", None, 0)
    assert joined == [given(ADDRESS, 4, 3), given("host1:99", 4, 0)]


@pytest.mark.parametrize(
    ("name", "value", "several"),
    [
        ("SLURM_STEP_NUM_TASKS", "8", True),
        ("SLURM_STEP_NUM_TASKS", "1", False),
        ("OMPI_COMM_WORLD_SIZE", "2", True),
        ("OMPI_COMM_WORLD_SIZE", "", False),
        ("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2", True),
        ("TPU_WORKER_HOSTNAMES", "localhost", False),
        ("TPU_PROCESS_ADDRESSES", "localhost:8476,localhost:8477", True),
    ],
)
def test_launchers_of_several_processes_are_left_to_jax(joined, monkeypatch, name, value, several):
    monkeypatch.setenv(name, value)
    cluster.join(None, None, None, None)
    assert joined == [given()] * several
    cluster.join(False, None, None, None)
    assert len(joined) == several


def test_a_launcher_completes_the_flags(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    cluster.join(None, ADDRESS, None, None)
    assert joined == [given(ADDRESS)]


def test_nodistributed_ignores_all_other_flags_and_variables(joined, jax_variables):
    cluster.join(False, None, None, None)
    cluster.join(False, ADDRESS, 2, 0)
    assert joined == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((ADDRESS, None, None), "num_processes and process_id is missing; give --coordinator_address"),
        ((ADDRESS, 2, None), "but process_id is missing"),
        ((None, 2, 0), "but coordinator_address is missing"),
        ((ADDRESS, 2, 2), "--process_id is 2, but must be from 0 to --num_processes - 1 = 1"),
        ((ADDRESS, 2, -1), "--process_id is -1"),
    ],
)
@pytest.mark.parametrize("distributed", [None, True])
def test_impossible_flags_are_refused(joined, distributed, flags, sentence):
    with pytest.raises(cli.UserError, match=sentence):
        cluster.join(distributed, *flags)
    assert joined == []


def test_environment_variables_must_be_numbers(joined, jax_variables, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "four")
    with pytest.raises(cli.UserError, match="JAX_NUM_PROCESSES is 'four', but must be a whole number"):
        cluster.join(None, None, None, None)
    cluster.join(None, None, 4, None)  # a flag goes first
    assert joined == [given(ADDRESS, 4, 3)]


@pytest.mark.parametrize(
    ("error", "flags"),
    [
        (RuntimeError("Deadline exceeded"), (None, ADDRESS, 2, 1)),
        (ValueError("coordinator_address should be defined."), (True, None, None, None)),
    ],
)
def test_processes_that_cannot_connect_are_reported(joined, monkeypatch, error, flags):
    def fail(**given):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    sentence = rf"could not be connected \({error}\)\. Start the same command on every host"
    with pytest.raises(cli.UserError, match=sentence):
        cluster.join(*flags)
