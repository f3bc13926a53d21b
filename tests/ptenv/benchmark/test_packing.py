import zlib
from base64 import b64encode

import numpy as np
import pytest

from ptenv.benchmark.packing import packed, unpacked


@pytest.mark.parametrize(
    "actions",
    [
        [3, 0, 27], [np.int64(5)], [np.array(2), np.array(9)],
        [np.linspace(-1, 1, 23, dtype=np.float32)] * 4,
        [np.arange(13) % 2 == 0, np.zeros(13, bool)], [np.ones((3, 5), np.int8)],
    ],
)  # fmt: skip
def test_actions_come_back_as_they_were(actions):
    back = unpacked(packed(actions))
    assert back.shape == np.stack([np.asarray(a) for a in actions]).shape
    for given, found in zip(actions, back, strict=True):
        np.testing.assert_array_equal(np.asarray(given).astype(found.dtype), found)


def test_bits_take_an_eighth_of_a_byte_before_compression():
    noise = np.random.default_rng(0).random(80_000) < 0.5
    assert len(packed([noise])["data"]) < 80_000 / 8 * 4 / 3 * 1.05


def _text(raw: bytes) -> str:
    return b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize(
    "broken, said",
    [
        ({"dtype": "object", "shape": [1], "data": ""}, "dtype"),
        ({"dtype": "int64", "shape": [2], "data": _text(b"12345678")}, "16 bytes"),
        ({"dtype": "int64", "shape": [1], "data": _text(b"123456789")}, "8 bytes"),
        ({"dtype": "int64", "shape": [1], "data": "!!!"}, "cannot be read"),
        ({"dtype": "int64", "shape": [1], "data": b64encode(b"no zip").decode()}, "cannot be read"),
        ({"dtype": "float32", "shape": [2_000_000_000, 50], "data": ""}, "claims"),
        ({"dtype": "float32", "shape": [], "data": ""}, "claims"),
    ],
)
def test_what_holds_no_actions_is_refused(broken, said):
    with pytest.raises(ValueError, match=said):
        unpacked(broken)


def test_a_bomb_is_not_unpacked_beyond_its_claim():
    bomb = {"dtype": "int64", "shape": [1], "data": _text(b"\0" * 50_000_000)}
    with pytest.raises(ValueError, match="8 bytes"):
        unpacked(bomb)
