"""Programs, run as `python -m experiments.NAME` from the root of the clone; see README.md in this folder.

Programs are the modules of this package. Code that several of them share is in its subpackages, which import
only subpackages before them in this list: common, tasks, runs, scoring, training, study, benchmarks.
"""
