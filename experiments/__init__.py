"""Programs: thin mains over gmflow_jax, run as `python -m experiments.NAME`.

The programs are train, sample, evaluate, sweep, export, download, prepare_latents, solver_study and those in
benchmarks. What else is here serves them: fit, hooks, checks, cluster and costs train a run; runs knows a
configuration and a run's folder, trained and bundles a trained one; tasks and latents are what is trained
on; scoring, report, likelihood and figures judge and draw; provenance is what reports say of their origin;
study belongs to solver_study.
"""
