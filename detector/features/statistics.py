"""Pure functions on statistics: the band of natural paths, and statistics block by block.

Statistics are float32 ``(N, M·c)`` with c columns per block, block after block: equation 34's ‖r_m‖²/d_m and
cos(r_m, 1), then cosines to further vectors.
"""

import numpy as np

from models.errors import InputError

__all__ = ["BAND_QUANTILES", "by_block", "natural_band"]

BAND_QUANTILES = (0.05, 0.5, 0.95)


def natural_band(statistics: np.ndarray) -> np.ndarray:
    """Quantiles float32 ``(3, F)`` of natural statistics ``(N, F)``: the 5 %, 50 % and 95 % of every column.

    Paths are drawn over this band. It bounds single columns, so most natural paths leave it at some block; the verdict
    does not use it.

    Raises:
        InputError: no rows, not a matrix, or values that are not finite.
    """
    if statistics.ndim != 2 or not len(statistics) or not np.isfinite(statistics).all():
        raise InputError(
            f"expected a matrix of finite natural statistics with at least one row, got {statistics.shape}"
        )
    band: np.ndarray = np.quantile(statistics.astype(np.float64), BAND_QUANTILES, axis=0).astype(np.float32)
    return band


def by_block(statistics: np.ndarray, columns_per_block: int) -> np.ndarray:
    """Statistics ``(N, M, c)`` of statistics ``(N, M·c)``; a view.

    Raises:
        InputError: the columns do not divide into blocks of `columns_per_block`.
    """
    if columns_per_block < 1 or statistics.shape[-1] % columns_per_block:
        raise InputError(
            f"expected statistics in blocks of {columns_per_block} columns, got {statistics.shape[-1]} columns; "
            "set columns_per_block to 2 plus the number of further directions of the measure"
        )
    blocks = statistics.shape[-1] // columns_per_block
    return statistics.reshape(*statistics.shape[:-1], blocks, columns_per_block)
