"""Randomness for the data plane: numbers and permutations that are pure functions of their arguments.

Integers only (splitmix64's mixer, Steele et al. 2014), so every machine and every numpy version gives the same values;
numpy's own generators promise that for neither.

Legend of shape suffixes: B rows.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 8


def make_key(*parts: object) -> np.uint64:
    """A 64-bit key from anything that prints the same everywhere: numbers, names."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def mix(x: UInt64) -> UInt64:
    """splitmix64's finalizer, element by element: uint64 in, independent-looking uint64 out."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def uniforms(key: np.uint64, rows_B: Int64, *shape: int) -> Float32:
    """(B, *shape) float32, uniform in [0, 1): row b depends on ``key`` and ``rows_B[b]`` alone."""
    start_B = mix(rows_B.astype(np.uint64) * _GOLDEN + key)
    elements = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * _GOLDEN
    bits = mix(start_B[:, None] + elements[None, :])
    return ((bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(-1, *shape)


def mix_keys(key: np.uint64, *numbers: Int64) -> UInt64:
    """A key for each row of ``numbers``, arrays of one shape."""
    keys = np.full(numbers[0].shape, key)
    for values in numbers:
        keys = mix(keys + (values.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return keys


def permute(places: Int64, n: int | Int64, key: np.uint64 | UInt64) -> Int64:
    """Where a pseudo-random permutation of 0 .. n - 1 sends ``places``; constant memory, whatever ``n`` is.

    With arrays ``n`` and ``key``, of the shape of ``places``, each place goes through a permutation of its own.
    A Feistel network over [0, a) x [0, b) with a b >= n, walked until it lands below n (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").
    """
    if not places.size:
        return places
    most = np.asarray(n, np.uint64)
    a = np.ceil(np.sqrt(most)).astype(np.uint64)
    b = (most + a - np.uint64(1)) // np.maximum(a, np.uint64(1))
    keys = mix(np.asarray(key)[..., None] + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * _GOLDEN)

    def once(x: UInt64, a: UInt64, b: UInt64, keys: UInt64) -> UInt64:
        left, right = x // b, x % b
        for k in range(0, _ROUNDS, 2):
            left = (left + mix(right * _GOLDEN + keys[..., k]) % a) % a
            right = (right + mix(left * _GOLDEN + keys[..., k + 1]) % b) % b
        return left * b + right

    out = once(places.astype(np.uint64), a, b, keys)
    while (outside := np.flatnonzero(out >= most)).size:
        mine = [x[outside] if most.ndim else x for x in (a, b, keys)]
        out[outside] = once(out[outside], *mine)
    return out.astype(np.int64)
