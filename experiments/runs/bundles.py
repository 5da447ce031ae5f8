"""Averaged parameters of a run, and the networks of one on latents, as an exported folder holds them."""

import pathlib
from typing import Any

import ml_collections

from experiments.runs import folder, networks
from experiments.tasks.latents import load_autoencoder
from gmflow_jax import data, interop, pipeline, training

_LARGEST_RESIDUAL = 0.05  # of a rebuilt average's profile


def draws_latents(config: ml_collections.ConfigDict) -> bool:
    """Whether samples of a run are latents, which an autoencoder turns into pictures."""
    return config.task in ("latents", "fake")


def load_bundle(
    workdir: str, average: str = "final", autoencoder: str | None = None, ema_std: float | None = None
) -> interop.Bundle:
    """The networks of a run on latents, with averaged parameters, as an exported folder holds them.

    `average` is 'final', or 'best' by the evaluation loss; `ema_std` asks for a power-function average of
    that relative width instead. `autoencoder` is a folder, refused if the latents are not of it.
    """
    config = folder.read_config(workdir)
    if not draws_latents(config):
        raise ValueError(
            f"{workdir} holds a run on the {config.task}, but only one on latents has a diffusers form."
        )
    if ema_std is None:
        params, _ = load_average(workdir, config, average)
    else:
        params = _power_average(workdir, config, ema_std)
    parts = networks.build_networks(config, params)
    note = pathlib.Path(workdir) / "latents.json"
    metadata = data.LatentMetadata.load(note) if note.exists() else None
    if autoencoder:
        parts["autoencoder"] = load_autoencoder(autoencoder, metadata)
    folders = metadata.class_folders if metadata else ()
    id2label = {i: metadata.class_names.get(name, name) for i, name in enumerate(folders)}
    return interop.Bundle(**parts, id2label=id2label)


def load_pipeline(
    workdir: str, average: str = "final", autoencoder: str | None = None, ema_std: float | None = None
) -> pipeline.Pipeline:
    """`load_bundle` on all local devices, for pictures, which take an autoencoder."""
    if not autoencoder:
        raise ValueError(
            f"The run in {workdir} draws latents. Give --autoencoder, the folder of the one that made those "
            "it was trained on."
        )
    return pipeline.Pipeline(load_bundle(workdir, average, autoencoder, ema_std))


def load_average(
    workdir: str, config: ml_collections.ConfigDict, average: str = "final"
) -> tuple[Any, dict[str, Any]]:
    """The averaged parameters of a run's newest checkpoint, or its best ones, and the checkpoint's notes."""
    if average not in ("final", "best"):
        raise ValueError(f"There is no average {average!r}; give 'final' or 'best'.")
    folder = pathlib.Path(workdir) / ("checkpoints" if average == "final" else "best")
    if average == "best" and not folder.exists():
        raise ValueError(f"{workdir} was trained without eval_every, so it knows no best; give 'final'.")
    with training.Snapshots(folder, read_only=True) as snapshots:
        if not snapshots.steps():
            raise ValueError(
                f"The run in {workdir} has no checkpoint yet. Wait for its first one, or train on."
            )
        restored = snapshots.restore(ema=networks.abstract_network(config)[1])
    return restored["ema"], restored["meta"]


def _power_average(workdir: str, config, std: float) -> Any:
    """The parameters at the end of what is stored, averaged with relative width `std`."""
    folder = pathlib.Path(workdir) / "post_hoc"
    if not folder.exists():
        raise ValueError(
            f"{workdir} stored no averages for other widths; train with post_hoc_ema.stds and its every."
        )
    shapes, stds = networks.abstract_network(config)[1], tuple(config.post_hoc_ema.stds)
    with training.Snapshots(folder, read_only=True) as snapshots:
        stored = [(step, i) for step in snapshots.steps() for i in range(len(stds))]
        profiles = [(step, stds[i]) for step, i in stored]
        last = max((step for step, _ in stored), default=0)
        weights = training.post_hoc_weights(profiles, last, std)
        residual = training.post_hoc_residual(profiles, weights, last, std)
        if residual > _LARGEST_RESIDUAL:
            raise ValueError(
                f"The averages stored in {folder} give one of relative width {std} only with an error of "
                f"{residual:.0%} of its profile. Ask for a width nearer to {stds}, or store more often."
            )
        trees = (
            snapshots.restore(step, **{f"average_{i}": shapes})[f"average_{i}"] for step, i in stored
        )
        return training.combine(trees, weights)
