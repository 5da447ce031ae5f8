"""Where every configuration starts: how a run is parallelised, saved and looked at."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0

    # 'jit' splits the batch over all devices and stores the state in shards; within the step the blocks'
    # parameters stay split over mesh.fsdp of them. 'pmap' keeps the whole state on every device.
    config.parallel = "jit"
    config.mesh = ml_collections.ConfigDict(dict(data=-1, fsdp=1))  # -1 is what is left
    config.num_microbatches = 1  # of which the gradient is accumulated

    config.log_every = 100
    config.checkpoint_every = 2500
    config.keep_last = 2
    config.keep_every = 0  # checkpoints of multiples of so many steps stay for good
    config.max_skipped_in_row = 100  # non-finite steps after which the run stops
    config.sample_every = 0  # a grid of samples in the workdir; 0 is never
    config.eval_every = 0  # the loss of the averaged parameters on fixed draws; the best are kept
    config.eval_batches = 4
    # Scores as in reports, but of fewer samples: unguided, by 8 steps of gm_ode, or of ab2 for plain flow.
    config.score_every = 0
    config.score_samples = 1000  # the metric's name says how many
    config.profile_steps = ""  # such as "100:110": a profile of these steps

    config.data = ml_collections.ConfigDict(dict(
        folder="",  # of python -m experiments.prepare_latents
        eval_folder="",  # the same of other images, for eval_every; without one, training images
        num_threads=0,  # that read ahead; 0 reads when a batch is needed
        num_workers=0,  # processes that do
    ))
    config.autoencoder = ""  # its folder: pictures while training, and a check of the latents
    config.inception = ""  # FID's weights, for score_every on latents
    config.reference = ""  # what it compares with, as --reference of experiments.evaluate
    # Averages for any width afterwards: stds such as (0.05, 0.1), stored every so many steps.
    config.post_hoc_ema = ml_collections.ConfigDict(dict(stds=(), every=0))
    config.optimizer = ml_collections.ConfigDict(dict(
        schedule="constant",
        warm_up_steps=0,
        end_ratio=0.0,
        b1=0.9,
        b2=0.95,
        weight_decay=0.0,
        clip_norm=1.0,  # 0 is no clipping
        clip_begin_step=0,
        mu_dtype="float32",
    ))
    return config
