"""Random numbers that depend only on their name.

``uniforms(3, seed, "pool", "t3.nano")`` returns the same three numbers in every process and in any
order of calls.  The market therefore needs no state, and two processes always agree.  There is no
generator object and no global state.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def digest(size: int, *name: object) -> bytes:
    """``size`` bytes that depend only on the name."""
    return hashlib.shake_128("\x1f".join(map(str, name)).encode()).digest(size)


def uniforms(count: int, *name: object) -> Floats:
    """``count`` numbers in (0, 1)."""
    bits = np.frombuffer(digest(8 * count, *name), dtype="<u8") >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) / 2.0**53


def normals(count: int, *name: object) -> Floats:
    """``count`` standard normal numbers (Box-Muller transform)."""
    radius, angle = uniforms(2 * count, *name).reshape(2, count)
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
