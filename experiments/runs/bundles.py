"""The averaged parameters of a run, and the networks of a run on latents as a `Bundle`."""

import pathlib
from typing import Any

import ml_collections

from experiments.runs import folder, networks
from experiments.tasks.latents import load_autoencoder
from gmflow_jax import data, interop, pipeline, training
from gmflow_jax._files import to_path

_LARGEST_RESIDUAL = 0.05  # see `training.post_hoc_residual`


def draws_latents(config: ml_collections.ConfigDict) -> bool:
    """Return whether a run samples latents, which an autoencoder decodes to images."""
    return config.task in ("latents", "fake")


def load_bundle(
    workdir: str, average: str = "final", autoencoder: str | None = None, ema_std: float | None = None
) -> interop.Bundle:
    """Load the networks of a run on latents, with averaged parameters.

    Args:
      workdir: folder of the run.
      average: 'final' for the average at the newest checkpoint, or 'best' for the one with the lowest
        evaluation loss.
      autoencoder: diffusers folder of the autoencoder that encoded the run's latents; None leaves it out.
      ema_std: relative width of a power-function average to rebuild, instead of `average`.

    Returns:
      A bundle with the network, the spectrum if the run learned one, the autoencoder and the class names.

    Raises:
      ValueError: if the run is not on latents, the average cannot be had, or the autoencoder is another one.
    """
    config = folder.read_config(workdir)
    if not draws_latents(config):
        raise ValueError(
            f"{workdir} holds a run on the {config.task}, but only the networks of runs on latents have a "
            "diffusers form; give the --workdir of a run on latents."
        )
    if ema_std is None:
        params, _ = load_average(workdir, config, average)
    else:
        params = _power_average(workdir, config, ema_std)
    parts = networks.build_networks(config, params)
    metadata = latents_of(workdir)
    if autoencoder:
        parts["autoencoder"] = load_autoencoder(autoencoder, metadata)
    folders = metadata.class_folders if metadata else ()
    id2label = {i: metadata.class_names.get(name, name) for i, name in enumerate(folders)}
    shift = config.distillation.shift if "num_calls" in config else 1.0
    return interop.Bundle(**parts, id2label=id2label, shift=shift, num_calls=config.get("num_calls"))


def latents_of(workdir: str) -> data.LatentMetadata | None:
    """Return the metadata of the latents that a run was trained on, or None if it was trained on others."""
    path = to_path(workdir) / "latents.json"
    return data.LatentMetadata.load(path) if path.exists() else None


def load_pipeline(
    workdir: str, average: str = "final", autoencoder: str | None = None, ema_std: float | None = None
) -> pipeline.Pipeline:
    """Load a run on latents as a pipeline on all local devices, which draws images.

    Args:
      workdir: folder of the run.
      average: see `load_bundle`.
      autoencoder: folder of the autoencoder that encoded the training data; required.
      ema_std: see `load_bundle`.

    Returns:
      The pipeline.

    Raises:
      ValueError: if `autoencoder` is missing, or as `load_bundle`.
    """
    if not autoencoder:
        raise ValueError(
            f"The run in {workdir} draws latents. Give --autoencoder, the folder of the autoencoder that "
            "encoded its training data."
        )
    return pipeline.Pipeline(load_bundle(workdir, average, autoencoder, ema_std))


def load_average(
    workdir: str, config: ml_collections.ConfigDict, average: str = "final"
) -> tuple[Any, dict[str, Any]]:
    """Load averaged parameters of a run.

    Args:
      workdir: folder of the run.
      config: configuration of the run.
      average: 'final' for the newest checkpoint, or 'best' for the lowest evaluation loss.

    Returns:
      The parameters, and a dict with the step at which they were stored.

    Raises:
      ValueError: if `average` is neither, or the run has no such parameters.
    """
    if average not in ("final", "best"):
        raise ValueError(f"There is no average {average!r}; give 'final' or 'best'.")
    path = to_path(workdir) / ("checkpoints" if average == "final" else "best")
    if average == "best" and not path.exists():
        raise ValueError(
            f"{workdir} was trained without eval_every, so it has no best parameters; give 'final'."
        )
    restored = _restore_newest(path, ema=networks.abstract_network(config)[1])
    return restored["ema"], restored["meta"]


def _restore_newest(path: pathlib.Path, **targets: Any) -> dict[str, Any]:
    """Read the newest snapshot of a run, which may be in training."""
    failed = None
    while True:
        with training.Snapshots(path, read_only=True) as snapshots:
            step = snapshots.latest_step()
            if step is None:
                raise ValueError(
                    f"The run in {path.parent} has no checkpoint yet. Wait for the first one, or continue "
                    "training."
                )
            try:
                return snapshots.restore(step, **targets)
            except ValueError:
                if step == failed:
                    raise
                failed = step  # unless the training has stored a newer one, and deleted this one meanwhile


def _power_average(workdir: str, config, std: float) -> Any:
    """Rebuild the average of relative width `std` at the last step of the stored averages."""
    path = to_path(workdir) / "post_hoc"
    if not path.exists():
        raise ValueError(
            f"{workdir} holds no averages to rebuild others from; train with post_hoc_ema.stds and "
            "post_hoc_ema.every."
        )
    shapes, stds = networks.abstract_network(config)[1], tuple(config.post_hoc_ema.stds)
    with training.Snapshots(path, read_only=True) as snapshots:
        stored = [(step, i) for step in snapshots.steps() for i in range(len(stds))]
        profiles = [(step, stds[i]) for step, i in stored]
        last = max((step for step, _ in stored), default=0)
        weights = training.post_hoc_weights(profiles, last, std)
        residual = training.post_hoc_residual(profiles, weights, last, std)
        if residual > _LARGEST_RESIDUAL:
            raise ValueError(
                f"The averages stored in {path} give one of relative width {std} only with an error of "
                f"{residual:.0%} of its profile. Give a width nearer to {stds}, or store averages more often."
            )
        trees = (
            snapshots.restore(step, **{f"average_{i}": shapes})[f"average_{i}"] for step, i in stored
        )
        return training.combine(trees, weights)
