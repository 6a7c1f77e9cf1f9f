"""Pure functions on images: natural scene statistics, Fourier spectra and pixel statistics.

They map tensors to tensors, batch first, and compute in float64 and return float32. The values of an image do not
depend on the other images of the batch, bit for bit.
"""

from detector.features.image_statistics.fourier import spectrum
from detector.features.image_statistics.natural_scenes import NSS_NAMES, nss
from detector.features.image_statistics.pixels import PIXEL_NAMES, pixel_statistics

__all__ = ["NSS_NAMES", "PIXEL_NAMES", "nss", "pixel_statistics", "spectrum"]
