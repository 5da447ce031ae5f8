"""The programs that are compiled: shapes and shardings of a training step, a sampler and two networks.

Nothing is loaded or run. Parameters are shapes, and so are batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from experiments.common import solver_choices
from experiments.compiler import collectives
from experiments.compiler.memory import MAX_BATCH
from experiments.compiler.program import Program, Sampling
from experiments.compiler.targets import Target
from experiments.runs import networks, teachers
from experiments.tasks.fake import FakeTask
from experiments.tasks.make import make_task
from experiments.training import checks, costs, distillation, steps
from gmflow_jax import interop, models, pipeline, sharding, solvers
from gmflow_jax.pipeline._compiled import CompiledSampler
from gmflow_jax.pipeline._usual import usual_options

NAMES = ("train", "sample", "decode", "inception")
_PER_DEVICE = {"sample": 16, "decode": 16, "inception": 32}  # as Pipeline and FeatureExtractor
_DECODED_AT_A_TIME = 4  # as Pipeline


def check(name: str, config: ml_collections.ConfigDict, target: Target, sampling: Sampling) -> None:
    """Raise ValueError if a program cannot be made of a configuration. It needs no compiler."""
    network = networks.network_config(config)
    uses_cudnn = name in ("train", "sample") and getattr(network, "attention", "xla") == "cudnn"
    if uses_cudnn and target.platform != "cuda":
        raise ValueError(
            f"network.attention is 'cudnn', a kernel of NVIDIA GPUs, but the target is {target.name}; give "
            "--config.network.attention=auto or xla."
        )
    if name == "train":
        checks.check_numbers(config)
        if "teacher" in config:
            checks.check_distillation(config)
        if config.parallel != "jit":
            raise ValueError(
                f"config.parallel is {config.parallel!r}, whose step is compiled on the devices themselves; "
                "only 'jit' can be compiled without them."
            )
        _task(config)
        _check_step(config, target)
        return
    if not isinstance(network, models.GMDiTConfig):
        raise ValueError(
            f"--program={name} is for networks of images, but network.kind is {config.network.kind!r}; give "
            "a configuration with 'gm_dit', or --program=train."
        )
    if name != "sample" and config.task not in ("latents", "fake"):
        raise ValueError(
            f"--program={name} is for latents of an autoencoder, but the task of this configuration is "
            f"{config.task}; give one with latents, such as experiments/configs/imagenet256_gmdit_s_k8.py."
        )
    if name == "sample":
        _recipe(_bundle(config), sampling)


def _check_step(config: ml_collections.ConfigDict, target: Target) -> None:
    """Make all of a training step that needs no devices; numbers stand for them."""
    mesh = sharding.make_mesh(**config.mesh, devices=range(target.num_devices))
    parallelism = sharding.JitParallelism(mesh)
    optimizer = steps.make_optimizer(config)
    distilled = _distillation(config) if "teacher" in config else None
    constants = () if distilled is None else (distilled.teacher.params,)
    steps.make_train_step(config, optimizer, parallelism, distilled)
    jax.eval_shape(steps.make_init(config, optimizer, distilled), *constants)


def batch_unit(name: str, config: ml_collections.ConfigDict, target: Target) -> int:
    """Return the number of which a batch must be a multiple; raise ValueError if there is none."""
    if name != "train":
        return target.num_devices
    if not 1 <= config.num_microbatches <= MAX_BATCH // target.num_devices:
        raise ValueError(
            f"num_microbatches is {config.num_microbatches}, but must be at least 1, and with "
            f"{target.num_devices} devices at most {MAX_BATCH // target.num_devices}."
        )
    return target.num_devices * config.num_microbatches


def batch_size(
    name: str, config: ml_collections.ConfigDict, target: Target, given: int | None
) -> int:
    """Return the batch size of a program: the given one, or else the usual one.

    Raises:
      ValueError: if the batch is above 2**31 - 1, or cannot be split over the devices, and for training over
        the microbatches.
    """
    usual = config.batch_size if name == "train" else _PER_DEVICE[name] * target.num_devices
    size, unit = usual if given is None else given, batch_unit(name, config, target)
    if size > MAX_BATCH:
        raise ValueError(f"A batch of {size} is too large for a compiler; give at most {MAX_BATCH}.")
    if size < 1 or size % unit:
        many = f"{target.num_devices} devices of {target.name}"
        parts = f" in {config.num_microbatches} microbatches" if unit != target.num_devices else ""
        raise ValueError(
            f"A batch of {size} cannot be split over {many}{parts}; give --batch_size as a multiple of "
            f"{unit}, or --batch_size=auto for the largest that fits."
        )
    return size


def make(
    name: str, config: ml_collections.ConfigDict, devices: list[Any], size: int, sampling: Sampling
) -> Program:
    """Make a program.

    Args:
      name: one of `NAMES`.
      config: configuration of the run.
      devices: devices of a `Target`.
      size: batch size.
      sampling: options of 'sample'.

    Returns:
      The program.

    Raises:
      ValueError: if an option of the configuration cannot work.
    """
    if name == "train":
        return _train(config, devices, size)
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
    if name == "inception":
        return _inception(networks.network_config(config), mesh, size)
    if name == "decode":
        return _decode(_bundle(config), mesh, size)
    return _sample(_bundle(config), mesh, size, sampling)


def _train(config: ml_collections.ConfigDict, devices: list[Any], size: int) -> Program:
    config = ml_collections.ConfigDict(config)
    config.batch_size = size
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    # As on the real devices, the mesh is laid out along their connections.
    mesh = jax.make_mesh(mesh.devices.shape, mesh.axis_names, mesh.axis_types, devices=devices)
    parallelism = sharding.JitParallelism(mesh)
    optimizer = steps.make_optimizer(config)
    task = _task(config)
    rows = task.batches(size, config.seed)(0, rows=np.arange(1))
    batch = {
        key: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=_split(parallelism.mesh))
        for key, x in rows.items()
    }
    distilled = _distillation(config, parallelism.abstract) if "teacher" in config else None
    constants = () if distilled is None else (distilled.teacher.params,)
    state = parallelism.abstract(steps.make_init(config, optimizer, distilled), *constants)
    step = steps.make_train_step(config, optimizer, parallelism, distilled)
    held = {"state": state, "batch": batch}
    if constants:
        held["teacher"] = constants[0]
    flops = costs.flops_per_image(config)
    return Program(
        parallelism.mesh,
        held,
        lambda: parallelism.compile(step, state, batch, *constants),
        model_flops=flops and flops * size,
        ideal=collectives.ideal_bytes(state.params, parallelism.mesh, config.network.get("dtype", "float32")),
    )


def _distillation(config, abstract: Callable = jax.eval_shape) -> distillation.Distillation:
    """Return a distillation whose teacher has the student's network; `abstract` gives shapes of arrays."""
    network, shapes = networks.network_config(config), networks.abstract_network(config)[1]
    params = abstract(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    apply = teachers.make_apply(network)
    teacher = teachers.Teacher(apply, params, network, None, None, None, "of the student's network")
    return distillation.Distillation(teacher, "")


def _task(config: ml_collections.ConfigDict) -> Any:
    """Return the run's task, but random latents in place of stored ones."""
    network = networks.network_config(config)
    if config.task == "latents" and isinstance(network, models.GMDiTConfig):
        return FakeTask(config, network)
    return make_task(config, network)


def _bundle(config: ml_collections.ConfigDict) -> interop.Bundle:
    """Return the run's networks without arrays."""
    built = networks.build_networks(config, networks.abstract_network(config)[1])
    shift = config.distillation.shift if config.get("num_calls") else 1.0
    return interop.Bundle(**built, shift=shift, num_calls=config.get("num_calls"))


def _recipe(bundle: interop.Bundle, sampling: Sampling) -> tuple[pipeline.Recipe, int]:
    """Return the recipe of a sampler and its number of steps; raise ValueError if an option cannot work."""
    if sampling.solver not in solvers.NAMES:
        raise ValueError(
            f"There is no solver {sampling.solver!r}. Give --solver one of {', '.join(solvers.NAMES)}."
        )
    given = {"order": sampling.order, "num_substeps": sampling.num_substeps, "guided": sampling.guided}
    num_steps = usual_options(bundle.num_calls, sampling.num_steps).num_steps
    recipe = pipeline.usual_recipe(bundle, num_steps, solver=sampling.solver, **given)
    if recipe.guided and not bundle.config.num_classes:
        raise ValueError("Guidance needs classes, but network.num_classes is 0; give --noguided.")
    pipeline.Sampler(bundle, recipe)  # raises here if an option does not fit the solver
    return recipe, num_steps


def _sample(bundle: interop.Bundle, mesh: Mesh, size: int, sampling: Sampling) -> Program:
    recipe, num_steps = _recipe(bundle, sampling)
    whole, split = _whole(mesh), _split(mesh)
    params = _placed({n: models.functional(net)[1] for n, net in bundle.networks.items()}, whole)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size)).update(sharding=split)
    labels = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=split)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    times = jax.ShapeDtypeStruct((num_steps + 1,), jnp.float32, sharding=whole)
    sampler = CompiledSampler(pipeline.Sampler(bundle, recipe), mesh)

    @jax.jit
    def sample(params, keys, labels, scale, times):
        return sampler.latents((params, keys, labels, scale), times, tqdm(disable=True))

    calls = solver_choices.num_calls(sampling.solver, num_steps) * (1 + recipe.guided)
    return Program(
        mesh,
        {"parameters": params, "batch": (keys, labels)},
        lambda: sample.lower(params, keys, labels, scale, times).compile(),
        model_flops=calls * models.forward_flops(bundle.config) * size,
    )


def _decode(bundle: interop.Bundle, mesh: Mesh, size: int) -> Program:
    """Return the decoder of the usual autoencoder, as `Pipeline` runs it."""
    outline = models.AutoencoderKLConfig(latent_channels=bundle.config.in_channels)
    _, shapes = models.abstract(models.AutoencoderKL, outline)
    bundle = dataclasses.replace(
        bundle, autoencoder=models.from_params(models.AutoencoderKL, outline, shapes)
    )
    params = _placed({"autoencoder": shapes}, _whole(mesh))
    shape = (size, *bundle.config.input_height_width, bundle.config.in_channels)
    latents = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=_split(mesh))
    recipe = pipeline.Recipe(guided=False)
    sampler = CompiledSampler(pipeline.Sampler(bundle, recipe, _DECODED_AT_A_TIME), mesh)
    return Program(
        mesh,
        {"parameters": params, "batch": latents},
        lambda: sampler.images.lower(params, latents).compile(),
    )


def _inception(network: models.GMDiTConfig, mesh: Mesh, size: int) -> Program:
    """Return Inception for the images that the usual autoencoder decodes, as `FeatureExtractor` runs it."""
    # InceptionV3 has no configuration.
    apply, shapes = models.abstract(lambda config, rngs: models.InceptionV3(rngs), None)
    params = _placed(shapes, _whole(mesh))
    factor = 2 ** (len(models.AutoencoderKLConfig().block_channels) - 1)
    height, width = (factor * n for n in network.input_height_width)
    images = jax.ShapeDtypeStruct((size, height, width, 3), jnp.uint8, sharding=_split(mesh))

    def compile_it() -> jax.stages.Compiled:
        with jax.default_matmul_precision("highest"):
            return jax.jit(apply, out_shardings=_split(mesh)).lower(params, images).compile()

    return Program(mesh, {"parameters": params, "batch": images}, compile_it)


def _placed(tree: Any, placement: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), tree
    )


def _whole(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _split(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))
