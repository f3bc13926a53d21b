"""Gymnasium environments over a radiotherapy dose engine and plan optimizer.

``import ptenv`` registers the ids; ``gymnasium.make("ptenv/VoxelMask-mini-v0")`` makes one.
"""

from ptenv.registration import register_all

__version__ = "0.1.0"

register_all()
