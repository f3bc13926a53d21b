"""Recorded behavior: Minari datasets of what baselines and people did, and cloning it."""
