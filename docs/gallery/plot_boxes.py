"""
Boxes
=====

Pixels outside all boxes are background. Pixels in the middle of a box belong to its object. Propagation
labels the rest.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from skimage import data, draw, segmentation

import aproarray

PHOTOGRAPHS = {"coffee": data.coffee(), "chelsea": data.chelsea()}
BOXES = {  # corners (row, column): top left, bottom right
    "coffee": [((5, 70), (392, 490))],
    "chelsea": [((84, 132), (150, 210)), ((104, 292), (166, 346))],
}

# %%
# Label 1 is the background, 2 the first object, and so on. 0 is to be found out. The middle of a box is an
# ellipse of a third of its size.


def seeds_of(boxes, shape):
    """Return the labels that boxes give."""
    seeds = np.ones(shape, int)
    for (top, left), (bottom, right) in boxes:
        seeds[top:bottom, left:right] = 0
    for label, ((top, left), (bottom, right)) in enumerate(boxes, 2):
        middle, radii = ((top + bottom) / 2, (left + right) / 2), ((bottom - top) / 6, (right - left) / 6)
        seeds[draw.ellipse(*middle, *radii)] = label
    return seeds


seeds = {name: seeds_of(BOXES[name], image.shape[:2]) for name, image in PHOTOGRAPHS.items()}
labels = {name: aproarray.propagate_labels(image, seeds[name]) for name, image in PHOTOGRAPHS.items()}

# %%
# Boxes and middles are on the left, masks on the right.

COLORS = np.array([(0, 0, 0), (1.0, 0.25, 0.20), (1.0, 0.85, 0.10)])
fig, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
for row, (name, image) in zip(axes, PHOTOGRAPHS.items(), strict=True):
    for ax, title, shown, alpha in zip(
        row, (f"{name}: boxes", "masks"), (seeds[name], labels[name]), (1, 0.4), strict=True
    ):
        objects = np.maximum(shown - 1, 0)
        tinted = (1 - alpha) * image / 255 + alpha * COLORS[objects]
        painted = np.where(objects[..., None] > 0, tinted, image / 255)
        ax.imshow(segmentation.mark_boundaries(painted, objects, color=(1, 1, 1), mode="inner"))
        for (top, left), (bottom, right) in BOXES[name]:
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="white"))
        ax.set_title(title)
        ax.set_axis_off()
plt.show()
