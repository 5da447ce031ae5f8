"""Configurations of runs and sweeps, one in each module."""
