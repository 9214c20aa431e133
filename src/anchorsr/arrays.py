"""The array types that signatures name."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]
