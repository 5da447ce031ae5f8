"""Distillation runs: the teacher, the student's start, the step and the loss."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments.runs import networks
from experiments.runs.teachers import Teacher, describe_calls, load_teacher, make_apply
from experiments.tasks.make import held_out_of
from gmflow_jax import data, models, sharding, training
from gmflow_jax.guidance import METHODS

# Fields of a network's configuration that say how it is computed, not what.
_COMPUTATION = {"attention", "dtype", "param_dtype", "remat", "scan_layers"}
# Fields in which a student that starts from its teacher may differ: the head's form and initial values, too.
_FREE = _COMPUTATION | {"head", "means_bias_std"}
_OF_COMPONENTS = {"num_components", "constant_log_std", "log_std_dim", "log_std_layers"}


class Distillation(NamedTuple):
    """The teacher of a run.

    Attributes:
      teacher: the teacher.
      fingerprint: SHA-256 of the parameters.
    """

    teacher: Teacher
    fingerprint: str


def prepare(config: ml_collections.ConfigDict, task: Any) -> Distillation | None:
    """Load and check the teacher of a configuration, or return None if it distils none.

    All processes call it together, because they load a run's checkpoint together.

    Args:
      config: configuration of the run.
      task: task of the run.

    Returns:
      The teacher, with its parameters in NumPy arrays.

    Raises:
      ValueError: if the teacher or an option cannot be used.
    """
    if "teacher" not in config:
        return None
    if config.get("spectrum"):
        raise ValueError("A distilled network draws no noise, so it has no spectrum; leave spectrum out.")
    teacher = load_teacher(config)
    _check(teacher, config, task)
    teacher = _computed_like_student(teacher, networks.network_config(config))
    start(config, teacher)  # raises here if the student cannot start from it
    # Arrays that were loaded to one device cannot go on to those of other processes.
    params = jax.device_get(teacher.params)
    return Distillation(teacher._replace(params=params), models.fingerprint(params))


def place(distilled: Distillation, parallelism: sharding.Parallelism) -> Distillation:
    """Put the teacher's parameters on the devices, sharded as the state's."""
    params = parallelism.place(distilled.teacher.params)
    return distilled._replace(teacher=distilled.teacher._replace(params=params))


def start(config: ml_collections.ConfigDict, teacher: Teacher) -> Callable[[Any], Any]:
    """Return initial(teacher_params), which makes the student's initial parameters.

    Raises:
      ValueError: if the student cannot start from the teacher.
    """
    init, student = config.distillation.init, networks.network_config(config)
    if init == "scratch":
        return lambda teacher_params: networks.init_params(config)
    # The head is the teacher's if both have the same components, and otherwise repeats its only one.
    repeats = teacher.network.num_components == 1 and student.constant_log_std is None and any(
        getattr(teacher.network, name, None) != getattr(student, name, None) for name in _OF_COMPONENTS
    )
    difference = _difference(teacher.network, student, _FREE | (_OF_COMPONENTS if repeats else set()))
    if difference:
        raise ValueError(
            f"The student cannot start from the teacher {teacher.source}, whose network is another one "
            f"({difference}). Give config.network the teacher's sizes and its number of components, or "
            "several for a teacher of one; or --config.distillation.init=scratch."
        )
    shapes = networks.abstract_network(config)[1]

    def initial(teacher_params):
        params = teacher_params
        if repeats:
            one = dataclasses.replace(student, num_components=1)
            key = jax.random.key(config.seed)
            params = models.repeat_components(one, params, student.num_components, key=key)[1]
        return jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), params, shapes)

    return initial


def make_step(
    config: ml_collections.ConfigDict, distillation: Distillation, **options: Any
) -> Callable[..., tuple[training.TrainState, dict[str, jax.Array]]]:
    """Make the training step of a distilled run, which takes the teacher's parameters as a fourth argument.

    `options` are those of `training.make_distillation_step` that do not depend on `config.distillation`.
    """
    apply, _ = networks.abstract_network(config)
    return training.make_distillation_step(
        apply, _velocity(config, distillation.teacher), **_policy_options(config), **options
    )


def make_eval_loss(
    config: ml_collections.ConfigDict, distillation: Distillation, parallelism: sharding.Parallelism
) -> Callable[..., jax.Array]:
    """Return loss(params, batch, key, teacher_params), the loss of a distilled run on a batch."""
    apply, _ = networks.abstract_network(config)
    options = _policy_options(config)
    loss_fn = training.make_policy_loss(
        apply, _velocity(config, distillation.teacher), working_copy=parallelism.working_copy, **options
    )
    draws = {name: options[name] for name in ("num_calls", "shift")}

    def evaluate(params, batch, key, teacher_params):
        example = training.draw_policy_example(key, batch["x_0"], batch.get("labels"), **draws)
        return loss_fn(params, example, teacher_params)[0]

    return evaluate


def notes(distillation: Distillation) -> dict[str, str]:
    """Return what a run's folder notes of its teacher."""
    return {"weights_sha256": distillation.fingerprint}


def describe(config: ml_collections.ConfigDict, distillation: Distillation) -> str:
    """Describe a distillation in a sentence or two, which a run prints at its start."""
    c = config.distillation
    calls, source = describe_calls(config.num_calls), distillation.teacher.source
    text = f"The network learns to sample in {calls} from the teacher {source}, "
    if c.guidance_scale == METHODS[c.guidance]:
        text += "which is not guided."
    else:
        text += f"guided by {c.guidance} with the scale {c.guidance_scale:g} at times {tuple(c.interval)}."
    if config.network.get("num_components") == 1:
        text += (
            " It predicts one component, whose policy is Gaussian: expect worse samples than with several, "
            "such as --config.network.num_components=8."
        )
    return text


def _policy_options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    c = config.distillation
    return {
        "num_calls": config.num_calls, "num_substeps": c.num_substeps, "integrator": c.integrator,
        "shift": c.shift, "dropout": c.dropout, "data_free": c.data_free,
    }  # fmt: skip


def _velocity(config: ml_collections.ConfigDict, teacher: Teacher) -> Callable[..., jax.Array]:
    c = config.distillation
    if c.guidance_scale == METHODS[c.guidance]:
        return training.make_teacher(teacher.apply)
    return training.make_teacher(
        teacher.apply, c.guidance_scale, getattr(teacher.network, "num_classes", 0), method=c.guidance,
        interval=tuple(c.interval),
    )


def _check(teacher: Teacher, config: ml_collections.ConfigDict, task: Any) -> None:
    """Raise ValueError if a teacher is of another task, data, shape or classes than the run."""
    source = f"The teacher {teacher.source}"
    if teacher.task not in (None, config.task) and config.task != "fake":
        raise ValueError(
            f"{source} was trained on the task {teacher.task}, but this configuration has the task "
            f"{config.task}; give a teacher of the same task."
        )
    held_out = held_out_of(config)
    if teacher.task == config.task and teacher.held_out != held_out:
        raise ValueError(
            f"{source} was trained with data.held_out {teacher.held_out}, but this configuration has "
            f"{held_out}, so that the student would learn of digits that one of them holds out; give "
            f"--config.data.held_out={teacher.held_out}, or another teacher."
        )
    shape, needed = _sample_shape(teacher.network), tuple(task.sample_shape)
    if shape != needed:
        raise ValueError(
            f"{source} draws samples of shape {shape}, but this configuration needs {needed}; give a teacher "
            "of the same size and channels, or set those of config.network."
        )
    student = networks.network_config(config)
    classes, wanted = (getattr(network, "num_classes", 0) for network in (teacher.network, student))
    if classes != wanted:
        raise ValueError(
            f"{source} has {classes} classes, but network.num_classes is {wanted}; give a teacher of the "
            f"same classes, or --config.network.num_classes={classes}."
        )
    if task.metadata is not None:
        _check_latents(source, teacher, task.metadata)
    _velocity(config, teacher)  # raises here if an option of the guidance is wrong


def _check_latents(source: str, teacher: Teacher, metadata: Mapping[str, Any]) -> None:
    if teacher.latents is not None:
        found = teacher.latents.to_json()
    elif teacher.autoencoder is not None:
        found = {
            "autoencoder": data.autoencoder_fingerprint(teacher.autoencoder),
            "scaling_factor": teacher.autoencoder.config.scaling_factor,
        }
    else:
        return
    for name in ("autoencoder", "scaling_factor", "class_folders"):
        if name in found and json.loads(json.dumps(found[name])) != metadata[name]:
            raise ValueError(
                f"{source} models latents with another {name.replace('_', ' ')} than those of data.folder; "
                "prepare latents with the teacher's autoencoder and classes, or give another teacher."
            )


def _sample_shape(network: models.GMDiTConfig | models.GMMLPConfig) -> tuple[int, ...]:
    if isinstance(network, models.GMDiTConfig):
        return (*network.input_height_width, network.in_channels)
    return (network.num_dims,)


def _computed_like_student(teacher: Teacher, student: models.GMDiTConfig | models.GMMLPConfig) -> Teacher:
    """Return the teacher with the student's compute type and attention."""
    names = [field.name for field in dataclasses.fields(student) if field.name in _COMPUTATION]
    network = dataclasses.replace(
        teacher.network, **{name: getattr(student, name) for name in names if name != "param_dtype"}
    )
    return teacher._replace(apply=make_apply(network, teacher.predicts_noise), network=network)


def _difference(a: Any, b: Any, free: Set[str]) -> str:
    """Name the fields in which two configurations differ, apart from `free` ones."""
    if type(a) is not type(b):
        return f"{type(a).__name__} and not {type(b).__name__}"
    names = [f.name for f in dataclasses.fields(a) if f.name not in free]
    pairs = [(n, getattr(a, n), getattr(b, n)) for n in names]
    if "input_size" in names:
        pairs[names.index("input_size")] = ("input_size", a.input_height_width, b.input_height_width)
    return ", ".join(f"{n} is {x} and not {y}" for n, x, y in pairs if x != y)
