"""Programs: thin mains over gmflow_jax, run as `python -m experiments.NAME`."""
