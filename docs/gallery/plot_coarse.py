"""
Coarse scores
=============

A classifier gives scores of patches, and some of them are wrong. `aproarray.refine` brings them to the
image's size and its edges. The grid of patches may have any size.
"""

import matplotlib.pyplot as plt
import numpy as np
from skimage import data, draw, segmentation

import aproarray

image = data.chelsea()[:, :440]

# %%
# The scores are made up: the share of the cat in each patch of 20 x 20 pixels, after a rough outline. One
# patch in ten has the opposite score.

outline = [
    (299, 0), (175, 0), (90, 30), (0, 36), (0, 345), (20, 350), (85, 352), (165, 345), (225, 320), (262, 300),
    (285, 320), (299, 330),
]  # fmt: skip
cat = draw.polygon2mask(image.shape[:2], outline)
share = cat.reshape(15, 20, 22, 20).mean((1, 3))
wrong = np.random.default_rng(1).random(share.shape) < 0.1
scores = np.where(wrong, 1 - share, share)

# %%
# Nothing needs to be chosen.

refined = aproarray.refine(image, scores)

# %%
# Patches that contradict all others are overruled.

picture = image / 255
mask = np.where(refined[..., None] > 0.5, 0.6 * picture + 0.4 * np.array([1, 0.25, 0.2]), picture)
mask = segmentation.mark_boundaries(mask, refined > 0.5, color=(1, 1, 1), mode="inner")
fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
axes[0].imshow(scores, cmap="magma", vmin=0, vmax=1, extent=(0, 440, 300, 0))
axes[0].set_title("scores of 15 x 22 patches")
axes[1].imshow(refined, cmap="magma", vmin=0, vmax=1)
axes[1].set_title("refined")
axes[2].imshow(mask)
axes[2].set_title("above 0.5")
for ax in axes:
    ax.set_axis_off()
plt.show()
