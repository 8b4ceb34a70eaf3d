"""Kinds of arrays and buffers that pictures come in."""

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Buffer = bytes | memoryview
