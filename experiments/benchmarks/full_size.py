"""GM-DiT-XL/2, K = 8, with its autoencoder, end to end: time and memory of loading and of sampling.

  python -m experiments.benchmarks.full_size --folder=/tmp/random_xl

The first call writes a checkpoint with random weights, in the layout of the published one, to --folder
(3.0 GB); another network's folder may be given too. Printed are the peak of memory against the bytes of the
parameters, its floor, and the time against the floating-point operations of the network calls.
"""

import multiprocessing
import pathlib
import resource
import sys
import time

import jax
from absl import flags

from experiments.benchmarks import floors
from experiments.common import cli
from gmflow_jax import interop, models, pipeline

_FOLDER = flags.DEFINE_string("folder", None, "Checkpoint to measure; made with random weights if missing.")
_NETWORK = flags.DEFINE_string("network", "DiT-XL/2", "Size of the network that is made.")
_DTYPE = flags.DEFINE_string("dtype", None, "Type of the parameters; by default that stored.")
_IMAGES = flags.DEFINE_integer("num_images", 1, "How many images.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 2, "Steps, each two network calls.", 1)


def main() -> None:
    with cli.report_user_errors():
        if _FOLDER.value is None:
            raise ValueError("--folder is needed: a checkpoint, or where to write one with random weights.")
        if not pathlib.Path(_FOLDER.value).exists():
            print(f"Writing {_NETWORK.value} with random weights to {_FOLDER.value} ...", flush=True)
            # In another process, whose memory does not count here.
            process = multiprocessing.get_context("spawn").Process(
                target=write_random, args=(_FOLDER.value, models.gm_dit_config(_NETWORK.value))
            )
            process.start()
            process.join()
            if process.exitcode:
                raise ValueError(f"The checkpoint could not be written (exit code {process.exitcode}).")
        before, start = _peak(), time.perf_counter()
        pipe = pipeline.load(_FOLDER.value, _DTYPE.value)
    loaded, seconds = _peak(), time.perf_counter() - start
    size = _num_bytes(pipe.bundle)
    print(
        f"Loading: {seconds:.1f} s, {size / 1e9:.2f} GB of parameters, peak of memory {loaded / 1e9:.2f} GB, "
        f"of which {before / 1e9:.2f} before: {(loaded - before) / size:.2f} of the parameters."
    )
    labels = [i % pipe.bundle.config.num_classes for i in range(_IMAGES.value)]
    asked = {"num_steps": _STEPS.value, "labels": labels}
    first, again = (_seconds(lambda seed=seed: pipe(**asked, seed=seed)) for seed in range(2))
    work = 2 * _STEPS.value * _IMAGES.value * models.forward_flops(pipe.bundle.config)
    print(
        f"Sampling {_IMAGES.value} images in {_STEPS.value} steps: {first:.1f} s, without compiling "
        f"{again:.1f} s for {work / 1e12:.2f} TFLOP in the network ({work / again / 1e9:.0f} GFLOP/s; "
        "the time is also the autoencoder's and the sub-steps'), peak of the host's memory "
        f"{_peak() / 1e9:.2f} GB, on "
        f"{jax.local_device_count()} {jax.devices()[0].device_kind}."
    )


def write_random(folder: str, config: models.GMDiTConfig) -> None:
    """A checkpoint with all its networks, of this transformer and random weights."""
    spectrum = models.SpectrumMLPConfig(config.input_size, config.in_channels)
    bundle = interop.init_bundle(jax.random.key(0), config, spectrum, models.AutoencoderKLConfig())
    interop.save_diffusers(folder, bundle)


def _num_bytes(bundle: interop.Bundle) -> int:
    return floors.num_bytes(*(models.functional(network)[1] for network in bundle.networks.values()))


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    cli.run(main)
