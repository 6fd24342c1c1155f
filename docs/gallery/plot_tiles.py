"""
Tiles
=====

Local propagation reaches ``iterations * (kernel_size // 2)`` pixels far. If tiles overlap by that many
pixels, `skimage.util.apply_parallel` (which needs dask) gives the same result as the whole image. Global
propagation and `aproarray.propagate_labels` need the whole image. (The verbs also take dask arrays, which
need no overlap.)
"""

# %%
# Here the colours of stained tissue propagate over themselves. This smooths the image and keeps its edges.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, util

import aproarray

image = data.immunohistochemistry() / 255
iterations, kernel_size = 6, 5


def smooth(tile):
    """Propagate the colours of a tile over themselves."""
    return aproarray.local_propagate(
        tile, tile, zeta=0.06, kernel_size=kernel_size, iterations=iterations, workers=1
    )


tiled = util.apply_parallel(
    smooth, image, chunks=(192, 192), depth=iterations * (kernel_size // 2), mode="none", channel_axis=-1
)
whole = smooth(image)
print(f"tiles differ from the whole image by at most {np.abs(tiled - whole).max():.0e}")

# %%
# The nine tiles have no seams.

fig, axes = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
for ax, title, picture in zip(axes, ("image", "smoothed, in 9 tiles"), (image, tiled), strict=True):
    ax.imshow(picture)
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
