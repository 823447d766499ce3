"""Fingerprints of parts that could be taken for each other."""

import hashlib

import numpy as np

from cdnv2_jax.data.source import fingerprint


def test_no_two_alike() -> None:
    one = np.arange(6, dtype=np.int32)
    parts = [
        *([], [[]], [[""]], [["", ""]], [["ab", "c"]], [["a", "bc"]], [["a", "b"], ["c"]], [["a,1:b", "c"]]),
        *(["abc"], ["ab", "c"], [b"abc"], [b"ab", b"c"], ["text 3"], [["\udcff"]], [["ÿ"]]),
        *([one], [one.reshape(2, 3)], [one.astype(np.int64)], [one.astype(np.uint32)], [one[:3], one[3:]]),
        *([one.tobytes()], [np.zeros(0)], [np.zeros((0, 3))]),
    ]
    assert len({fingerprint(*each) for each in parts}) == len(parts)


def test_the_same_values() -> None:
    """In whichever order of bytes or memory; the format itself is fixed."""
    table = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert fingerprint(table) == fingerprint(table.astype(">i4")) == fingerprint(np.asfortranarray(table))
    assert fingerprint("é", b"x") == hashlib.sha256(b"text 2\n\xc3\xa9bytes 1\nx").hexdigest()
