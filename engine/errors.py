"""Warnings that every part of the engine shares."""


class PhysicsWarning(UserWarning):
    """Input or physics that is doubtful, yet runs."""
