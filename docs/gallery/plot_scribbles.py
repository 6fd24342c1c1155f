"""
Strokes
=======

Draw a few strokes, and get a label for every pixel: this is what `aproarray.propagate_labels` is for.
"""

# %%
# There are two photographs, of colour values from 0 to 255. Any type and range will do: there is nothing to
# tune. A stroke is a line through corners (row, column), five pixels wide. Label 0 says that a pixel has no
# label.

import itertools

import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage
from skimage import data, draw, segmentation

import aproarray

COLORS = np.array([(0, 0, 0), (0.20, 0.45, 1.0), (1.0, 0.25, 0.20), (1.0, 0.85, 0.10)])  # of labels 0 to 3
PHOTOGRAPHS = {"coffee": data.coffee(), "rocket": data.rocket()}
STROKES = {
    "coffee": {
        1: [
            [(20, 60), (20, 560)],
            [(380, 40), (380, 120)],
            [(330, 560), (380, 500)],
            [(180, 520), (250, 570)],
        ],
        2: [[(200, 130), (330, 230), (345, 400), (280, 480)]],
        3: [[(130, 230), (240, 300), (150, 370)]],
    },
    "rocket": {
        1: [[(20, 20), (200, 60), (300, 120)], [(20, 620), (250, 600)]],
        2: [[(130, 322), (330, 322)]],
        3: [[(410, 30), (415, 610)]],
    },
}


def draw_strokes(shape, strokes):
    """Return an array of labels, given the corners of the strokes of each label."""
    marks = np.zeros(shape, int)
    for label, lines in strokes.items():
        for start, end in itertools.chain.from_iterable(map(itertools.pairwise, lines)):
            marks[draw.line(*start, *end)] = label
    return ndimage.grey_dilation(marks, (5, 5))


marks = {name: draw_strokes(PHOTOGRAPHS[name].shape[:2], STROKES[name]) for name in PHOTOGRAPHS}

# %%
# One call for each photograph. All pixels get a label.

labels = {name: aproarray.propagate_labels(PHOTOGRAPHS[name], marks[name]) for name in PHOTOGRAPHS}

# %%
# The strokes are above, and the labels below.

fig, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
for column, (name, image) in enumerate(PHOTOGRAPHS.items()):
    strokes = np.where(marks[name][..., None] > 0, COLORS[marks[name]], image / 255)
    strokes = segmentation.mark_boundaries(strokes, marks[name], color=(1, 1, 1), mode="outer")
    painted = 0.6 * image / 255 + 0.4 * COLORS[labels[name]]
    painted = segmentation.mark_boundaries(painted, labels[name], color=(1, 1, 1), mode="inner")
    axes[0, column].imshow(strokes)
    axes[0, column].set_title(f"{name}: strokes")
    axes[1, column].imshow(painted)
    axes[1, column].set_title("labels")
for ax in axes.flat:
    ax.set_axis_off()
plt.show()
