"""What runs are trained on: digits, the checkerboard, latents of images, random latents.

A task has the shape of a sample, batches and pictures; digits and checkerboard also have scores.
Imports common.
"""
