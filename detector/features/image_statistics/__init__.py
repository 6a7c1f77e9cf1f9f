"""Pure functions on images: natural scene statistics, Fourier spectra and pixel statistics.

Tensors in, tensors out, batch first; float64 inside, float32 at the end. An image's values are the same bit for bit
whichever images are beside it.
"""

from detector.features.image_statistics.fourier import spectrum
from detector.features.image_statistics.natural_scenes import NSS_NAMES, nss
from detector.features.image_statistics.pixels import PIXEL_NAMES, pixel_statistics

__all__ = ["NSS_NAMES", "PIXEL_NAMES", "nss", "pixel_statistics", "spectrum"]
