"""The tasks that runs are trained on: digits, the checkerboard, latents of images, and random latents.

A task defines the shape of a sample, the batches and the pictures. Digits and checkerboard also have scores.
Imports common.
"""
