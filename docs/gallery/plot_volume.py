"""
A volume
========

A noisy volume has touching grains, and one point in each. Labels of three axes make the image a volume.
Nothing else changes.
"""

# %%
# The volume is generated, so that the truth is known. Grains are balls of different sizes, with dark seams
# between them, in noise.

import matplotlib.pyplot as plt
import numpy as np
from skimage import color, segmentation

import aproarray

rng = np.random.default_rng(0)
shape = (48, 96, 144)
centers = np.array([(z, y, x) for z in (12, 36) for y in (16, 48, 80) for x in range(16, 144, 28)])
centers += rng.integers(-4, 5, centers.shape)
pixels = np.moveaxis(np.indices(shape, np.float32), 0, -1)
radii = rng.uniform(12, 16, len(centers))
outside = np.stack([np.linalg.norm(pixels - c, axis=-1) - r for c, r in zip(centers, radii, strict=True)])
nearest, second = np.partition(outside, 1, axis=0)[:2]
truth = np.where(nearest < 0, outside.argmin(0) + 2, 1)
image = np.where(truth > 1, 0.55, 0.2) + 0.12 * np.tanh(nearest / -4)
image -= 0.3 * np.exp(-(((second - nearest) / 1.5) ** 2)) * (truth > 1)
image = (image + 0.06 * rng.standard_normal(shape)).clip(0, 1)

# %%
# One point of 3 x 3 x 3 voxels marks each grain. Points of a coarse grid mark the background.

seeds = np.zeros(shape, int)
seeds[:, ::24, ::24] = np.where(truth[:, ::24, ::24] == 1, 1, 0)
for label, (z, y, x) in enumerate(centers, 2):
    seeds[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = label

labels = aproarray.propagate_labels(image, seeds)
print(f"{np.mean(labels == truth):.1%} of the voxels have the right label")

# %%
# Three cuts through the labels.

colors = color.hsv2rgb(np.linspace([0, 0.8, 1], [0.95, 0.8, 1], len(centers)))
colors = np.array([(0, 0, 0), *rng.permuted(colors, axis=0)])
fig, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
for ax, (title, at) in zip(
    axes, {"z = 12": np.s_[12], "y = 48": np.s_[:, 48], "x = 72": np.s_[..., 72]}.items(), strict=True
):
    grey = color.gray2rgb(image[at])
    painted = np.where(labels[at][..., None] > 1, 0.6 * grey + 0.4 * colors[labels[at] - 1], grey)
    ax.imshow(segmentation.mark_boundaries(painted, labels[at], color=(1, 1, 1), mode="inner"))
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
