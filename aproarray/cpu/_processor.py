"""Choose between modules that are compiled twice, by this processor.

Their results are the same bits, but for those of `windows`, which rounds products and sums once where it can.
"""

from __future__ import annotations

from aproarray.cpu import _settle as settling
from aproarray.cpu import _stream as windows
from aproarray.cpu import _sweep as sweeps
from aproarray.cpu import _tiles as tiles
from aproarray.cpu import _weigh as weighing

if sweeps.has_avx2():
    from aproarray.cpu import _settle_avx2 as settling  # type: ignore[no-redef]
    from aproarray.cpu import _stream_avx2 as windows  # type: ignore[no-redef]
    from aproarray.cpu import _sweep_avx2 as sweeps  # type: ignore[no-redef]
    from aproarray.cpu import _tiles_avx2 as tiles  # type: ignore[no-redef]
    from aproarray.cpu import _weigh_avx2 as weighing  # type: ignore[no-redef]

__all__ = ["settling", "sweeps", "tiles", "weighing", "windows"]
