"""
The three verbs, one after the other
====================================

`aproarray.mst` builds the minimum spanning tree of an image. `aproarray.global_propagate` carries scores
along it, and `aproarray.local_propagate` carries them over small windows. Here, the scores are two marks.
"""

# %%
# Scores have one channel for each class. Her face is the first class, and the wall is the second.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import aproarray

image = data.astronaut()
seeds = np.zeros((512, 512, 2), np.float32)
seeds[100:180, 200:240, 0] = seeds[20:60, 300:340, 1] = 1

# %%
# The tree is built once for each image. Its edges join pixels that are alike: here is the affinity of a
# pixel of her cheek to all others. ``zeta`` is in the units of the image, here 0..255. Across a step of
# ``zeta``, the affinity falls to 1/e.

tree = aproarray.mst(image)
seen = tree.affinity((145, 200), zeta=15)

# %%
# Global propagation averages the seeds over all pixels, by affinity. The results are small numbers, as most
# pixels have no seed. Their common denominator cancels where they are divided by their sum.

scores = aproarray.global_propagate(seeds, tree, zeta=7.6)


def shares(scores):
    """Divide scores by their sum; where all are 0, no class has a share."""
    total = scores.sum(-1, keepdims=True)
    return np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)


after_global = shares(scores)

# %%
# Local propagation takes the scores on: specks and ragged borders go.

after_local = shares(aproarray.local_propagate(scores, image, zeta=8.6))
labels = np.where(after_local.any(-1), 1 + after_local.argmax(-1), 0)  # 0: no seed reaches this pixel
print(f"{np.mean(labels == 0):.2%} of the pixels have no label")

# %%
# The share of her face, after each step.

fig, axes = plt.subplots(2, 2, figsize=(9, 9.4), layout="constrained")
axes[0, 0].imshow(np.where(seeds.any(-1, keepdims=True), [255, 60, 60], image).astype("u1"))
axes[0, 0].set_title("two marks")
axes[0, 1].imshow(seen, cmap="magma")
axes[0, 1].set_title("affinity of one pixel to the others")
axes[1, 0].imshow(after_global[..., 0], cmap="magma")
axes[1, 0].set_title("global propagation: the share of her face")
axes[1, 1].imshow(after_local[..., 0], cmap="magma")
axes[1, 1].set_title("then local propagation")
for ax in axes.flat:
    ax.set_axis_off()
plt.show()
