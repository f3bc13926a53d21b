"""Values of a command line in Hydra's writing."""


def quoted(value: str) -> str:
    """A value that Hydra reads as this text, whatever signs it holds."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
