"""GM-DiT-XL/2 with K = 8 and its autoencoder, end to end: time and memory of loading and of sampling.

  python -m experiments.benchmarks.full_size --folder=/tmp/random_xl

If --folder does not exist, a checkpoint with random weights in the layout of the published one is written to
it (3.0 GB). The folder of another network may be given too. The program prints the peak of memory, next to
the bytes of the parameters, which are its lower bound, and the time, next to the floating-point operations of
the network calls.
"""

import functools
import multiprocessing
import resource
import sys
import time

import jax
from absl import flags

from experiments.benchmarks import floors, timing
from experiments.common import cli
from gmflow_jax import interop, models, pipeline
from gmflow_jax._files import to_path

_FOLDER = cli.define_path("folder", None, "Checkpoint; written with random weights if it does not exist.")
_NETWORK = flags.DEFINE_string("network", "DiT-XL/2", "Backbone of the checkpoint with random weights.")
_DTYPE = flags.DEFINE_string("dtype", None, "Type of the parameters; by default the type in the checkpoint.")
_IMAGES = flags.DEFINE_integer("num_images", 1, "Number of images.", lower_bound=1)
_STEPS = flags.DEFINE_integer("num_steps", 2, "Steps, each of two network calls.", 1)


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        if _FOLDER.value is None:
            raise ValueError("--folder is needed: a checkpoint, or a new folder for one with random weights.")
        if not to_path(_FOLDER.value).exists():
            print(f"Writing {_NETWORK.value} with random weights to {_FOLDER.value} ...", flush=True)
            # In another process, so that its memory is not part of this one's peak.
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
        f"of which {before / 1e9:.2f} before loading: {(loaded - before) / size:.2f} of the parameters."
    )
    labels = [i % pipe.bundle.config.num_classes for i in range(_IMAGES.value)]
    draw = functools.partial(pipe, labels, num_steps=_STEPS.value)
    first, again = (timing.seconds_of(functools.partial(draw, seed=seed)) for seed in range(2))
    work = 2 * _STEPS.value * _IMAGES.value * models.forward_flops(pipe.bundle.config)
    print(
        f"Sampling {_IMAGES.value} images in {_STEPS.value} steps: {first:.1f} s, without compiling "
        f"{again:.1f} s for {work / 1e12:.2f} TFLOP in the network ({work / again / 1e9:.0f} GFLOP/s; "
        "the time includes the autoencoder and the sub-steps), peak of the host's memory "
        f"{_peak() / 1e9:.2f} GB, on "
        f"{jax.local_device_count()} {jax.devices()[0].device_kind}."
    )


def write_random(folder: str, config: models.GMDiTConfig) -> None:
    """Write a checkpoint of a transformer, a spectrum network and an autoencoder with random weights."""
    spectrum = models.SpectrumMLPConfig(config.input_size, config.in_channels)
    bundle = interop.init_bundle(jax.random.key(0), config, spectrum, models.AutoencoderKLConfig())
    interop.save_diffusers(folder, bundle)


def _num_bytes(bundle: interop.Bundle) -> int:
    return floors.num_bytes(*(models.functional(network)[1] for network in bundle.networks.values()))


def _peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    cli.run(main)
