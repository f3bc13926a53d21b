"""Actions of an episode as text that JSON can hold, exact to the bit."""

import binascii
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

import numpy as np

KINDS = {"int64": "<i8", "float32": "<f4", "int8": "bits"}  # of actions, and how they are written
MOST_BYTES = 100_000_000  # of an episode's actions: a claim beyond is refused unread


def packed(actions: Sequence[np.ndarray | int]) -> dict:
    """All actions of an episode, stacked: whole numbers, float32 numbers, or bits of a mask."""
    stacked = np.stack([np.asarray(a) for a in actions])
    if stacked.dtype == np.bool_ or stacked.dtype == np.int8:
        kind, raw = "int8", np.packbits(stacked.astype(np.int8), axis=None)
    elif stacked.dtype.kind in "iu":
        kind, raw = "int64", stacked.astype("<i8")
    else:
        kind, raw = "float32", stacked.astype("<f4")
    data = b64encode(zlib.compress(raw.tobytes(), 9)).decode()
    return {"dtype": kind, "shape": list(stacked.shape), "data": data}


def unpacked(packed: Mapping) -> np.ndarray:
    """The actions (n_steps, …); refuses what is no such text."""
    dtype, shape = packed["dtype"], tuple(packed["shape"])
    if dtype not in KINDS:
        raise ValueError(f"actions.dtype={dtype!r} is unknown; known are {list(KINDS)}.")
    n = int(np.prod(shape, dtype=object)) if shape else 0
    wanted = -(-n // 8) if dtype == "int8" else n * np.dtype(KINDS[dtype]).itemsize
    if not 0 < wanted <= MOST_BYTES:
        raise ValueError(f"actions.shape={list(shape)} claims {wanted} bytes; they are no actions.")
    try:
        unzip = zlib.decompressobj()
        raw = unzip.decompress(b64decode(packed["data"], validate=True), wanted + 1)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise ValueError(f"actions.data cannot be read ({error}).") from None
    if len(raw) != wanted:
        raise ValueError(f"actions.data does not hold the {wanted} bytes of {list(shape)}.")
    if dtype == "int8":
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(np.int8).reshape(shape)
    return np.frombuffer(raw, KINDS[dtype]).astype(dtype).reshape(shape)
