"""
Clicks
======

There is one click on every coin, and some between them. Each coin has a label of its own. Many labels cost
no more than few.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import color, data, draw, segmentation

import aproarray

image = data.coins()
coins = [
    (54, 44), (56, 100), (51, 155), (52, 216), (52, 276), (44, 335),
    (124, 45), (126, 102), (127, 154), (124, 205), (119, 271), (125, 336),
    (197, 44), (195, 102), (198, 154), (193, 212), (194, 274), (187, 347),
    (260, 46), (266, 114), (261, 172), (263, 244), (263, 301), (268, 358),
]  # fmt: skip
between = [(row, column) for row in (8, 90, 160, 230, 295) for column in range(20, 310, 40)]

# %%
# A click is a disk of the same label. Label 1 is the background.

clicks = np.zeros(image.shape, int)
for label, center in [*((1, at) for at in between), *enumerate(coins, 2)]:
    clicks[draw.disk(center, 3.5, shape=image.shape)] = label

labels = aproarray.propagate_labels(image, clicks)

# %%
# Coins are painted in the colours of their labels.

colors = color.hsv2rgb(np.linspace([0, 0.8, 1], [0.95, 0.8, 1], len(coins)))
colors = np.random.default_rng(4).permuted(colors, axis=0)
colors = np.array([(0, 0, 0), (0.20, 0.45, 1.0), *colors])  # by label
grey = color.gray2rgb(image / 255)
marked = np.where(clicks[..., None] > 0, colors[clicks], grey)
marked = segmentation.mark_boundaries(marked, clicks, color=(1, 1, 1), mode="outer")
painted = np.where(labels[..., None] > 1, 0.6 * grey + 0.4 * colors[labels], grey)
painted = segmentation.mark_boundaries(painted, labels, color=(1, 1, 1), mode="inner")

fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for ax, title, picture in zip(axes, ("clicks", f"{len(coins)} coins"), (marked, painted), strict=True):
    ax.imshow(picture)
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
