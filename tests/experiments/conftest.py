"""Fixtures that run programs inside the test's process, which is faster than starting one for each."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from experiments.common import files
from experiments.configs import digits_spectrum
from experiments.runs import networks
from experiments.training import steps
from gmflow_jax import interop, training
from tests import inception_weights

_GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def run_main():
    """run_main(name, *arguments): run main() of a program with these flags."""

    def run(name, *arguments):
        # absl's flags are global, so the flags of programs that ran before are removed.
        for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
            if module.startswith("experiments."):
                for flag in list(defined):
                    delattr(flags.FLAGS, flag.name)
        for flag in list(flags.FLAGS):
            if flag.startswith("config."):
                delattr(flags.FLAGS, flag)
        sys.modules.pop(f"experiments.{name}", None)
        program = importlib.import_module(f"experiments.{name}")
        # ml_collections looks for the fields of a configuration in sys.argv.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *arguments])
            flags.FLAGS(sys.argv)
        program.main()

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A diffusers folder of tiny networks whose pictures have 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    bundle = dataclasses.replace(
        interop.load_diffusers(_GOLDEN / "networks" / "tiny_gmdit"),
        autoencoder=interop.load_diffusers(_GOLDEN / "autoencoder").autoencoder,
        id2label={0: "jay", 3: "great white heron/egret, Ardea alba"},
    )
    interop.save_diffusers(folder, bundle)
    return folder


def tiny(config):
    """Make the network of a digits configuration tiny."""
    config.network.update(hidden_size=16, depth=1, num_heads=2, num_components=2, log_std_dim=8)
    return config


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A digits run that was saved before its first step, with a spectrum that is not white."""
    config, folder = tiny(digits_spectrum.get_config()), tmp_path_factory.mktemp("untrained")
    params = jax.jit(lambda: networks.init_params(config))()
    bias = params["spectrum"]["mlp"]["layer_2"]["bias"]
    params["spectrum"]["mlp"]["layer_2"]["bias"] = jnp.linspace(-2.0, 2.0, bias.size)
    files.write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
    with training.Checkpointer(folder / "checkpoints") as checkpointer:
        checkpointer.save_state(training.init_state(params, steps.make_optimizer(config)))
    return folder


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """The golden data's weights of Inception."""
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    inception_weights.write(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _fast_compile(fast_compile_module):
    """Compile every test of experiments with few optimisations."""
