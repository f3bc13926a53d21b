"""Hydra finds sweepers only in the namespace package ``hydra_plugins``: ours is here."""
