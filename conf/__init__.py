"""Hydra configuration: one group per stage, one file per choice, found as ``pkg://conf``."""
