"""
Affinity
========

The affinity of one pixel to all others, by four methods. This is the paper's Figure 3.

* The tree filter adds up the steps along the path in the minimum spanning tree.
* A window of full size compares colors, wherever the other pixel is.
* `aproarray.affinity_map` of kind "local" goes through windows of 5 x 5 pixels, again and again.
* `aproarray.affinity_map` of kind "global" takes the largest step along the path.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage import data

import aproarray

photographs = {"coffee": data.coffee(), "rocket": data.rocket(), "chelsea": data.chelsea()}
pixels = {"coffee": (330, 330), "rocket": (200, 322), "chelsea": (120, 160)}  # (row, column)


def by_tree_filter(image, pixel, zeta):
    """Return the product of the affinities of all steps on the path to each pixel."""
    tree = aproarray.mst(image)
    start, end = tree.edges.T
    # SciPy leaves out steps of 0.
    steps = coo_array((tree.weights.astype(float) + 1e-12, (start, end)), shape=(tree.order.size,) * 2)
    place = np.ravel_multi_index(pixel, image.shape[:2])
    distances = dijkstra(steps.tocsr(), directed=False, indices=place)
    return np.exp(-distances / zeta**2).reshape(image.shape[:2])


def by_full_window(image, pixel, zeta):
    """Return the affinity of each pixel's color."""
    return np.exp(-((image - image[pixel]) ** 2).sum(-1) / zeta**2)


# %%
# The scale of the tree filter is the published one of the tree energy loss. The window has that of the
# paper's local propagation. Both are for images in [0, 1].

maps = {}
for name, image in photographs.items():
    pixel = pixels[name]
    maps[name, "tree filter"] = by_tree_filter(image / 255, pixel, zeta=0.02**0.5)
    maps[name, "window of full size"] = by_full_window(image / 255, pixel, zeta=0.034)
    maps[name, "local"] = aproarray.affinity_map(image, pixel, kind="local")
    maps[name, "global"] = aproarray.affinity_map(image, pixel, kind="global")

# %%
# The red dot is the pixel. Its affinity to itself is 1.

kinds = ("tree filter", "window of full size", "local", "global")
fig, axes = plt.subplots(3, 5, figsize=(12.5, 5.6), layout="constrained")
for row, (name, image) in zip(axes, photographs.items(), strict=True):
    row[0].imshow(image)
    row[0].plot(*pixels[name][::-1], "o", color="red", markeredgecolor="white")
    row[0].set_title(name)
    for ax, kind in zip(row[1:], kinds, strict=True):
        ax.imshow(maps[name, kind], cmap="magma", vmin=0, vmax=1)
        ax.set_title(kind)
for ax in axes.flat:
    ax.set_axis_off()
plt.show()
