"""Configurations of the runs, one file each."""
