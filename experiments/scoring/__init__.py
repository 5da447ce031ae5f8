"""Scores: which samples are drawn, what they are judged by, and how the numbers are shown."""
