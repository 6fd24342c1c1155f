"""
Superpixels
===========

A spanning tree can be built over any graph, by `aproarray.SpanningTree.from_edges`. Here, its nodes are
SLIC's superpixels, joined where they touch.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from skimage import color, data, draw, segmentation

import aproarray

image = data.coffee()
segments = segmentation.slic(image, n_segments=1500, compactness=5, start_label=0)
n_segments = segments.max() + 1

# %%
# Two superpixels are neighbours if they touch. Their edge weighs the squared difference of mean colours.

lab = color.rgb2lab(image).reshape(-1, 3) / 100
size = np.bincount(segments.ravel())
mean = np.stack([np.bincount(segments.ravel(), lab[:, c]) / size for c in range(3)], -1)
down = np.stack([segments[:-1].ravel(), segments[1:].ravel()], -1)
right = np.stack([segments[:, :-1].ravel(), segments[:, 1:].ravel()], -1)
touching = np.concatenate([down, right])
edges = np.unique(np.sort(touching[touching[:, 0] != touching[:, 1]], axis=1), axis=0)
weights = ((mean[edges[:, 0]] - mean[edges[:, 1]]) ** 2).sum(-1)
tree = aproarray.SpanningTree.from_edges(edges, weights, n_nodes=n_segments)
print(tree)

# %%
# Strokes vote for the superpixels that they cross. A long stroke counts as much as a short one.

corners = {
    1: [[(20, 60), (20, 560)], [(380, 40), (380, 120)], [(330, 560), (380, 500)], [(180, 520), (250, 570)]],
    2: [[(200, 130), (330, 230), (345, 400), (280, 480)]],
    3: [[(130, 230), (240, 300), (150, 370)]],
}
strokes = np.zeros(segments.shape, int)
for label, lines in corners.items():
    for start, end in itertools.chain.from_iterable(map(itertools.pairwise, lines)):
        strokes[draw.line(*start, *end)] = label
strokes = ndimage.grey_dilation(strokes, (5, 5))
evidence = np.zeros((n_segments, 3))
np.add.at(evidence, (segments[strokes > 0], strokes[strokes > 0] - 1), 1)
evidence /= evidence.sum(0)

# %%
# Values over a graph have the shape (nodes, channels).

scores = aproarray.global_propagate(evidence, tree, zeta=0.04)
labels = (scores.argmax(-1) + 1)[segments]

# %%
# Labels of superpixels are labels of their pixels.

COLORS = np.array([(0, 0, 0), (0.20, 0.45, 1.0), (1.0, 0.25, 0.20), (1.0, 0.85, 0.10)])  # of labels 0 to 3
marked = np.where(strokes[..., None] > 0, COLORS[strokes], image / 255)
marked = segmentation.mark_boundaries(marked, segments, color=(1, 1, 1), mode="inner")
painted = 0.6 * image / 255 + 0.4 * COLORS[labels]
painted = segmentation.mark_boundaries(painted, labels, color=(1, 1, 1), mode="inner")
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for ax, title, picture in zip(axes, (f"{n_segments} superpixels", "labels"), (marked, painted), strict=True):
    ax.imshow(picture)
    ax.set_title(title)
    ax.set_axis_off()
plt.show()
