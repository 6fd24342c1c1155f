"""
Affinity
========

`aproarray.affinity_map` shows the affinity of one pixel to all others: over long ways along the spanning
tree ("global"), nearby through windows ("local"). This is the paper's Figure 3.
"""

import matplotlib.pyplot as plt
from skimage import data

import aproarray

photographs = {"coffee": data.coffee(), "rocket": data.rocket(), "chelsea": data.chelsea()}
pixels = {"coffee": (330, 330), "rocket": (200, 322), "chelsea": (120, 160)}  # (row, column)

maps = {
    (name, kind): aproarray.affinity_map(image, pixels[name], kind=kind)
    for name, image in photographs.items()
    for kind in ("global", "local")
}

# %%
# The red dot is the pixel. Its affinity to itself is 1.

fig, axes = plt.subplots(3, 3, figsize=(9, 6.6), layout="constrained")
for row, (name, image) in zip(axes, photographs.items(), strict=True):
    row[0].imshow(image)
    row[0].plot(*pixels[name][::-1], "o", color="red", markeredgecolor="white")
    row[0].set_title(name)
    for ax, kind in zip(row[1:], ("global", "local"), strict=True):
        ax.imshow(maps[name, kind], cmap="magma", vmin=0, vmax=1)
        ax.set_title(f"{kind} affinity")
for ax in axes.flat:
    ax.set_axis_off()
plt.show()
