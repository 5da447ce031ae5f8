"""Programs, run as `python -m experiments.NAME` from the root of the clone; see README.md in this folder.

A program lies at the top; what several of them share lies in a room. A room imports only rooms that stand
before it in this list: common, tasks, runs, scoring, training, study and benchmarks.
"""
