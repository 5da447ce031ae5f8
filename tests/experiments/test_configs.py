"""Configurations that are too large to run here make the authors' networks and settings."""

import importlib

import pytest

from experiments.runs import networks
from experiments.training import steps
from gmflow_jax import models


def load(name):
    return importlib.import_module(f"experiments.configs.{name}").get_config()


@pytest.mark.parametrize(
    ("name", "num_params"),
    [
        ("imagenet256_gmdit_xl_k8", 676_201_577),  # the authors' network and spectrum
        ("fake_data_benchmark", 676_201_577),
        ("imagenet256_gmdit_xl_k1", 674_820_884),
        ("imagenet256_gmdit_b_k8", 131_240_297),
        ("imagenet256_gmdit_s_k8", 33_347_177),
    ],
)
def test_configurations_make_their_networks(name, num_params):
    config = load(name)
    assert models.num_params(networks.abstract_network(config)[1]) == num_params
    steps.make_optimizer(config)
    assert networks.network_config(config).remat == "dots"


def test_the_average_counts_images_of_any_batch_size():
    config = load("imagenet256_gmdit_xl_k8").lock()
    config.batch_size = 1024
    assert config.ema.to_dict()["global_batch_size"] == 1024


def test_the_baseline_has_neither_mixture_nor_spectrum():
    config = load("imagenet256_gmdit_xl_k1")
    assert networks.spectrum_function(config) is None
    assert (config.loss.loss, config.network.constant_log_std) == ("flow", 0.0)
