"""Defaults of the configurations of runs: parallelism, checkpoints, evaluation, data and optimiser."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0

    # 'jit' splits the batch over all devices, and the state too. Within a step, the parameters of the blocks
    # stay split over mesh.fsdp devices. 'pmap' keeps the whole state on every device.
    config.parallel = "jit"
    config.mesh = ml_collections.ConfigDict(dict(data=-1, fsdp=1))  # -1: all remaining devices
    config.num_microbatches = 1  # parts of the batch, over which gradients are accumulated

    config.log_every = 100
    config.checkpoint_every = 2500
    config.keep_last = 2
    config.keep_every = 0  # checkpoints at multiples of it are never deleted; 0: none
    config.max_skipped_in_row = 100  # consecutive non-finite steps after which the run stops
    config.sample_every = 0  # steps between two grids of samples; 0: none
    config.eval_every = 0  # steps between two evaluations, which keep the best averaged parameters; 0: none
    config.eval_batches = 4
    # Scores as in reports, of unguided samples by 8 steps of gm_ode, or of ab2 for plain flow matching.
    config.score_every = 0
    config.score_samples = 1000  # number of samples; metrics are named after it (fid_n1000)
    config.profile_steps = ""  # "100:110" writes a profile of these steps

    config.data = ml_collections.ConfigDict(dict(
        folder="",  # latents, written by python -m experiments.prepare_latents
        cache="",  # folder on the local disk for latents of a bucket; "" reads each record from the bucket
        cache_gib=200.0,  # the largest size of that folder
        eval_folder="",  # latents of other images, for eval_every; by default the training data
        num_threads=0,  # threads that read ahead; 0 reads each batch when it is needed
        num_workers=0,  # processes that read ahead
    ))
    config.autoencoder = ""  # folder of the autoencoder of the latents; decodes samples
    config.inception = ""  # weights of FID's Inception, for score_every on latents
    config.reference = ""  # reference for score_every, as --reference of experiments.evaluate
    # Averages of relative widths such as (0.05, 0.1), stored every so many steps, to rebuild other widths.
    config.post_hoc_ema = ml_collections.ConfigDict(dict(stds=(), every=0))
    config.optimizer = ml_collections.ConfigDict(dict(
        schedule="constant",
        warm_up_steps=0,
        end_ratio=0.0,
        b1=0.9,
        b2=0.95,
        weight_decay=0.0,
        clip_norm=1.0,  # 0: no clipping
        clip_begin_step=0,
        mu_dtype="float32",
    ))
    return config
