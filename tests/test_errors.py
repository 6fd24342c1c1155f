"""Errors: of the right type, and their messages say what came and what was expected."""

import re
from datetime import datetime

import numpy as np
import pytest

import aproarray
from aproarray import SpanningTree, related

IMAGE = np.arange(12.0).reshape(3, 4)
VALUES = np.ones((3, 4, 2))
MASK = np.ones((3, 4), bool)
TREE = aproarray.mst(IMAGE)
BATCH = aproarray.mst(np.stack([IMAGE, IMAGE]), channel_axis=None)
GRAPH = SpanningTree.from_edges([[0, 1], [1, 2]], [1.0, 2.0], 3)
WITH_NAN = np.where(IMAGE == 5, np.nan, IMAGE)


def foreign(library, name="Tensor"):
    """Return an object that looks as if it were of another array library."""
    return type(name, (), {"__module__": library, "shape": (3, 4), "dtype": "float32"})()


def mst(image=IMAGE, **options):
    return aproarray.mst(image, **options)


def gp(values=VALUES, tree=TREE, *, zeta=1.0, **options):
    return aproarray.global_propagate(values, tree, zeta=zeta, **options)


def lp(values=VALUES, image=IMAGE[..., None], **options):
    return aproarray.local_propagate(
        values, image, **{"zeta": 0.15, "kernel_size": 3, "iterations": 1, **options}
    )


def from_edges(edges=((0, 1),), weights=(1.0,), n_nodes=3):
    return SpanningTree.from_edges(edges, weights, n_nodes)


def expect(error, message, act, *arguments, **options):
    with pytest.raises(error, match=message) as caught:
        act(*arguments, **options)
    assert type(caught.value) is error


# Every way in for an array of numbers.
TAKES_NUMBERS = {
    "image of mst": (mst, "image"),
    "values of global_propagate": (gp, "values"),
    "features of global_propagate": (lambda x: gp(features=x), "features"),
    "features of reweight": (TREE.reweight, "features"),
    "values of local_propagate": (lp, "values"),
    "image of local_propagate": (lambda x: lp(image=x), "image"),
    "weights of from_edges": (lambda x: from_edges(weights=x), "weights"),
}
NOT_NUMBERS = [
    np.full((3, 4), None),
    np.zeros((3, 4), complex),
    np.zeros((3, 4), np.complex64),
    np.full((3, 4), "a"),
    np.full((3, 4), b"a"),
    np.full((3, 4), datetime(2023, 1, 1), "datetime64[s]"),
    np.zeros((3, 4), "timedelta64[s]"),
    np.zeros((3, 4), np.longdouble),
    np.zeros((3, 4), [("a", float)]),
    [["a", "b"]],
]


@pytest.mark.parametrize("where", TAKES_NUMBERS)
@pytest.mark.parametrize("array", NOT_NUMBERS, ids=lambda a: str(np.asarray(a).dtype))
def test_arrays_hold_real_numbers(where, array):
    act, name = TAKES_NUMBERS[where]
    message = f"{name} must hold bool, integer, float16, float32 or float64 numbers, got dtype "
    expect(TypeError, message + re.escape(str(np.asarray(array).dtype)), act, array)


@pytest.mark.parametrize("where", TAKES_NUMBERS)
def test_masked_arrays_are_refused_with_what_to_do(where):
    act, name = TAKES_NUMBERS[where]
    message = rf"{name}.* is a numpy.ma.MaskedArray, whose mask would be lost: pass .* and mask="
    expect(TypeError, message, act, np.ma.masked_equal(IMAGE, 3))


@pytest.mark.parametrize("library", ["torch", "cupy", "jax.numpy", "pandas.core.frame"])
@pytest.mark.parametrize("act", [mst, lambda x: lp(x, x)])
def test_other_libraries_are_named(library, act):
    expect(TypeError, rf"must be an array \(of NumPy .*, got an? {library}\.Tensor", act, foreign(library))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x: mst(mask=x), r"image is a numpy.ndarray, mask is a torch.Tensor"),
        (lambda x: gp(features=x), r"values is a numpy.ndarray, features is a torch.Tensor"),
        (lambda x: gp(out=x), r"values is a numpy.ndarray, out is a torch.Tensor"),
        (lambda x: gp(tree=BATCH, tree_index=x), r"tree_index is a torch.Tensor"),
        (lambda x: lp(image=x), r"values is a numpy.ndarray, image is a torch.Tensor"),
        (lambda x: lp(mask=x), r"mask is a torch.Tensor"),
    ],
)
def test_libraries_are_not_mixed(act, message):
    torch = pytest.importorskip("torch")
    expect(
        TypeError, "all arrays of one call must be of one library, but .*" + message, act, torch.zeros(3, 4)
    )


@pytest.mark.parametrize("array", ["abc", b"abc", None, object(), {1: 2}, {1.0}, 1j])
@pytest.mark.parametrize("act", [mst, gp, lp])
def test_what_is_no_array(act, array):
    with pytest.raises(TypeError, match=r"got (an?|dtype) "):
        act(array)


@pytest.mark.parametrize("act", [gp, lp, lambda zeta: TREE.affinity(0, zeta)])
def test_zeta_is_a_number_above_0(act):
    for zeta in (0, 0.0, -1, -np.inf, np.nan, np.float32(-2), np.array(0.0)):
        got = re.escape(repr(float(zeta)))
        expect(ValueError, rf"zeta must be above 0, got {got}", act, zeta=zeta)
    for zeta in (True, np.True_, "1", None, 1j, np.array("a")):
        expect(TypeError, "zeta must be a real number, got ", act, zeta=zeta)


def test_each_zeta_of_a_sequence_is_a_number_above_0():
    expect(ValueError, r"zeta\[1\] must be above 0, got -2", gp, zeta=[1, -2])
    expect(TypeError, r"zeta\[0\] must be a real number, got .*True", gp, zeta=(True,))
    expect(ValueError, r"zeta must be a number or a flat sequence, got shape \(1, 2\)", gp, zeta=[[1, 2]])
    expect(TypeError, r"zeta must be a real number, got \[1.0\]", lp, zeta=[1.0])


@pytest.mark.parametrize(
    ("act", "name", "minimum"),
    [
        (lp, "kernel_size", 1),
        (lp, "iterations", 0),
        (lp, "workers", 1),
        (gp, "workers", 1),
        (mst, "workers", 1),
        (lambda workers: TREE.reweight(IMAGE, workers=workers), "workers", 1),
        (mst, "spatial_ndim", 1),
        (lp, "spatial_ndim", 1),
        (from_edges, "n_nodes", 0),
    ],
)
def test_counts_are_integers_from_a_minimum(act, name, minimum):
    for wrong in (minimum - 1, -7, np.int8(-1)):
        expected = rf"{name} must be (at least|between) {minimum}.*, got {wrong}"
        expect(ValueError, expected, act, **{name: wrong})
    for wrong in (True, np.False_, 1.0, "3", [3], np.array([3, 4])):
        expect(TypeError, f"{name} must be an integer, got " + re.escape(repr(wrong)), act, **{name: wrong})


def test_kernel_size_is_odd():
    for wrong in (2, 4, 100):
        expect(ValueError, f"kernel_size must be odd.*, got {wrong}", lp, kernel_size=wrong)


@pytest.mark.parametrize(("ndim", "wrong"), [(1, 2), (2, 0), (2, 3), (3, 4), (3, -1)])
def test_connectivity_is_between_1_and_the_number_of_axes(ndim, wrong):
    message = f"connectivity must be between 1 and {ndim}, got {wrong}"
    expect(ValueError, message, mst, np.zeros((2,) * ndim), spatial_ndim=ndim, connectivity=wrong)


def test_more_axes_or_neighbours_than_the_kernels_have_room_for():
    expect(ValueError, "spatial_ndim must be between 1 and 8, got 9", mst, np.zeros((2,) * 9), spatial_ndim=9)
    message = "connectivity=5 gives a pixel 242 neighbours along 5 axes, at most 128 are supported"
    expect(ValueError, message, mst, np.zeros((2,) * 5), spatial_ndim=5, connectivity=5)


def test_numbers_beyond_float64():
    tree = mst(np.zeros((2, 2)))
    expect(
        ValueError,
        "zeta must fit a float64",
        aproarray.global_propagate,
        np.zeros((2, 2)),
        tree,
        zeta=10**400,
    )


def test_connectivity_is_an_integer():
    for wrong in (True, 1.0, "1", None):
        expect(TypeError, "connectivity must be an integer, got ", mst, connectivity=wrong)


@pytest.mark.parametrize("axis", [3, -4, 100])
def test_channel_axis_is_an_axis(axis):
    shape = r"\(3, 4, 2\)"
    message = f"channel_axis={axis} is not an axis of {{}} of shape {shape}"
    expect(ValueError, message.format("image"), mst, VALUES, channel_axis=axis)
    expect(ValueError, message.format("values"), gp, channel_axis=axis)
    expect(ValueError, message.format("values"), lp, image=IMAGE, channel_axis=axis)
    for wrong in (1.0, "0", True, (0,)):
        expect(TypeError, "channel_axis must be an integer, got ", mst, VALUES, channel_axis=wrong)


def test_images_have_enough_axes():
    expect(ValueError, r"image of shape \(5,\) has too few axes: expected 2 spatial ones", mst, np.zeros(5))
    expect(ValueError, r"channel_axis=-1 is not an axis of image of shape \(\)", mst, 1.0)
    expect(ValueError, r"image of shape \(\) has too few axes", mst, 1.0, channel_axis=None)
    message = r"image of shape \(3, 4\) has too few axes: expected 3 spatial ones"
    expect(ValueError, message, mst, spatial_ndim=3)
    expect(ValueError, message, mst, spatial_ndim=3, channel_axis=None)
    message = r"values of shape \(3,\) has too few axes"
    expect(ValueError, message, lp, np.zeros(3), IMAGE)


@pytest.mark.parametrize("act", [mst, lambda mask: lp(mask=mask)])
def test_mask_is_boolean_and_of_the_images_shape(act):
    act(mask=MASK)
    for dtype in (np.uint8, int, float, object):
        message = "mask must be boolean .*, got dtype " + str(np.dtype(dtype))
        expect(TypeError, message, act, mask=MASK.astype(dtype))
    for shape in ((4, 3), (3, 4, 1), (12,), (3,), (1, 3, 4), ()):
        message = (
            rf"mask of shape {re.escape(str(shape))} does not fit an image of shape .*: expected \(3, 4\)"
        )
        expect(ValueError, message, act, mask=np.ones(shape, bool))


def test_mask_of_a_batch():
    message = r"mask of shape \(3, 3, 4\) .* \(2, 3, 4, 1\): expected \(3, 4\) or \(2, 3, 4\)"
    expect(ValueError, message, mst, np.zeros((2, 3, 4, 1)), mask=np.ones((3, 3, 4), bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_inf_are_found_and_counted(bad, dtype):
    array = np.where(IMAGE == 5, bad, IMAGE).astype(dtype)
    for act, name in [
        (mst, "image"),
        (gp, "values"),
        (lambda array, **options: gp(features=array, **options), "features"),
        (lp, "values"),
        (lambda array, **options: lp(image=array, **options), "image"),
    ]:
        message = rf"{name} must be finite, but 1 of its 12 numbers are NaN or inf \(.*mask= .*\)$"
        expect(ValueError, message, act, array)
        act(array, check_finite=False)  # undefined, but neither an error nor a crash
    expect(ValueError, "features must be finite", TREE.reweight, array)


def test_inf_of_both_signs_is_found():
    expect(ValueError, "2 of its 12", mst, np.where(IMAGE == 5, np.inf, np.where(IMAGE == 7, -np.inf, 0)))


@pytest.mark.parametrize("verb", [mst, lambda values: gp(values, zeta=1e-3), lp])
def test_largest_numbers_are_finite_and_pass_the_check(verb):
    # The sum by which the check looks for NaN overflows; the numbers do not.
    for largest in (np.full((3, 4), 1.7e308), np.full((3, 4), 3e38, np.float32)):
        result = verb(largest)
        assert np.isfinite(result.weights if verb is mst else result).all()


def test_nan_is_accepted_where_the_mask_is_false():
    mask = np.isfinite(WITH_NAN)
    tree = mst(WITH_NAN, mask=mask)
    gp(WITH_NAN, tree)
    gp(VALUES, tree, features=WITH_NAN)
    tree.reweight(WITH_NAN)
    lp(WITH_NAN, WITH_NAN, mask=mask)
    for act in (mst, lp):
        expect(ValueError, "must be finite", act, WITH_NAN, mask=~mask)


def test_nan_is_accepted_only_where_its_own_mask_is_false():
    masks = np.stack([np.isfinite(WITH_NAN), MASK])
    images = np.stack([IMAGE, IMAGE])
    trees = mst(images, channel_axis=None, mask=masks)
    first, second = np.stack([WITH_NAN, IMAGE]), np.stack([IMAGE, WITH_NAN])
    for act in (
        lambda array: mst(array, channel_axis=None, mask=masks),
        lambda array: gp(array, trees),
        lambda array: gp(array, trees, tree_index=[0, 1]),
        lambda array: gp(array[::-1], trees, tree_index=[1, 0]),
        lambda array: gp(images, trees, features=array),
        lambda array: lp(array, images, channel_axis=None, mask=masks),
        lambda array: lp(images, array, channel_axis=None, mask=masks),
    ):
        act(first)
        expect(ValueError, "must be finite", act, second)


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 2e19), (np.float64, 2e154)])
def test_overflow_of_squared_differences(dtype, large):
    array = np.where(IMAGE == 5, large, 0).astype(dtype)
    message = f"squared differences of {{}} overflow {np.dtype(dtype)}: scale {{}} down"
    expect(ValueError, message.format("image", "image"), mst, array)
    expect(ValueError, message.format("features", "features"), gp, features=array)
    expect(ValueError, message.format("features", "features"), TREE.reweight, array)
    aproarray.mst(array, check_finite=False)
    aproarray.mst(array, mask=array == 0)
    if dtype == np.float32:
        expect(ValueError, "or pass it as float64", mst, array)
        aproarray.mst(array.astype(np.float64))


@pytest.mark.parametrize(
    ("shape", "tree", "options"),
    [
        ((4, 3, 2), TREE, {}),
        ((3, 4, 2), BATCH, {}),
        ((3, 3, 4, 2), BATCH, {}),
        ((2, 3, 4), TREE, {}),
        ((3, 4, 2), TREE, {"channel_axis": 0}),
        ((3, 4, 2), TREE, {"channel_axis": None}),
        ((4, 2), GRAPH, {}),
        ((3, 4), aproarray.mst(np.zeros((4, 3))), {}),
    ],
)
def test_values_fit_the_tree(shape, tree, options):
    came, wanted = re.escape(str(shape)), re.escape(str(tree.batch_shape + tree.shape))
    message = f"values of shape {came} (does not fit a tree of shape {wanted}: .* expected|has too few axes)"
    expect(ValueError, message, gp, np.zeros(shape), tree, **options)


def test_features_fit_the_tree_and_the_values():
    message = r"features of shape \(4, 3, 1\) does not fit a tree of shape \(3, 4\)"
    expect(ValueError, message, gp, features=np.zeros((4, 3, 1)))
    expect(ValueError, message, TREE.reweight, np.zeros((4, 3, 1)))
    message = r"features with leading axes \(5,\) do not fit values with leading axes \(2,\)"
    expect(ValueError, message, gp, np.zeros((2, 3, 4, 1)), features=np.zeros((5, 3, 4, 1)))
    expect(ValueError, r"leading axes \(5,\) .* leading axes \(\)", gp, features=np.zeros((5, 3, 4, 1)))


def test_values_fit_the_image():
    message = r"values of shape \(4, 3, 2\) does not fit an image of shape \(3, 4\): .* expected"
    expect(ValueError, message, lp, np.zeros((4, 3, 2)))
    message = r"values of shape \(3, 4, 2\) does not fit an image of shape \(2, 3, 4\)"
    expect(ValueError, message, lp, VALUES, np.zeros((2, 3, 4, 1)))


def test_tree_is_a_spanning_tree():
    for wrong in (None, IMAGE, "tree", (TREE,)):
        message = rf"tree must be a SpanningTree \(see aproarray.mst\), got a {type(wrong).__name__}"
        expect(TypeError, message, gp, VALUES, wrong)


def test_tree_index_names_trees():
    values = np.zeros((2, 3, 4, 1))
    message = r"tree_index must be in \[0, 2\), got values from {} to {}"
    expect(ValueError, message.format(0, 2), gp, values, BATCH, tree_index=[0, 2])
    expect(ValueError, message.format(-1, 1), gp, values, BATCH, tree_index=[-1, 1])
    huge = np.array([0, 2**64 - 1], np.uint64)
    expect(ValueError, message.format(0, 2**64 - 1), gp, values, BATCH, tree_index=huge)
    for wrong in ([0.0, 1.0], [True, False], ["0", "1"], np.zeros(0)):
        dtype = re.escape(str(np.asarray(wrong).dtype))
        message = f"tree_index must hold integers, got dtype {dtype}"
        expect(TypeError, message, gp, values, BATCH, tree_index=wrong)
    for shape in ((), (2, 1), (0, 2)):
        message = r"tree_index must have shape \('any',\), got " + re.escape(str(shape))
        expect(ValueError, message, gp, values, BATCH, tree_index=np.zeros(shape, int))
    message = r"values of shape \(2, 3, 4, 1\) does not fit a tree of shape \(3, 3, 4\)"
    expect(ValueError, message, gp, values, BATCH, tree_index=[0, 1, 1])
    message = r"tree_index needs a batch of trees along one axis, got shape \(\)"
    expect(ValueError, message, gp, tree_index=[0])


@pytest.mark.parametrize("verb", [gp, lp])
def test_out_is_like_the_result(verb):
    expect(TypeError, "out must be a NumPy array, got a list", verb, out=VALUES.tolist())
    for dtype in (np.float32, int, object, ">f8"):
        message = f"out must have the result's dtype float64, got {np.dtype(dtype)}"
        expect(TypeError, message, verb, out=np.zeros((3, 4, 2), dtype))
    expect(
        TypeError,
        "out must have the result's dtype float16, got float32",
        verb,
        VALUES.astype(np.float16),
        out=np.zeros((3, 4, 2), np.float32),
    )
    for shape in ((3, 4), (4, 3, 2), (1, 3, 4, 2)):
        message = r"out must have the result's shape \(3, 4, 2\), got " + re.escape(str(shape))
        expect(ValueError, message, verb, out=np.zeros(shape))
    read_only = np.zeros((3, 4, 2))
    read_only.setflags(write=False)
    expect(ValueError, "out must be writeable, got a read-only array", verb, out=read_only)


def test_out_of_several_zetas():
    message = r"out must have the result's shape \(2, 3, 4, 2\), got \(3, 4, 2\)"
    expect(ValueError, message, gp, zeta=[1, 2], out=np.zeros((3, 4, 2)))


def test_a_failed_call_leaves_out_as_it_was():
    for verb in (gp, lp):
        out = np.full((3, 4), 7.0)
        expect(ValueError, "must be finite", verb, WITH_NAN, out=out)
        assert (out == 7).all()


def test_edges_and_weights_of_a_graph():
    for shape in ((2,), (1, 3), (1, 2, 1), ()):
        message = r"edges must have shape \('any', 2\), got " + re.escape(str(shape))
        expect(ValueError, message, from_edges, np.zeros(shape, int))
    for wrong in ([[0.0, 1.0]], [[True, False]], np.zeros((0, 2))):
        expect(TypeError, "edges must hold integers, got dtype ", from_edges, wrong)
    expect(ValueError, r"edges must be in \[0, 3\), got values from 0 to 3", from_edges, [[0, 3]])
    expect(ValueError, r"edges must be in \[0, 3\), got values from -1 to 0", from_edges, [[0, -1]])
    message = r"weights must have one entry per edge, shape \(1,\), got "
    for shape in ((2,), (0,), (), (1, 1)):
        expect(ValueError, message + re.escape(str(shape)), from_edges, weights=np.zeros(shape))
    for wrong in (-1.0, np.nan, np.inf, -np.inf):
        message = "weights must be finite and at least 0, got negative, NaN or inf ones"
        expect(ValueError, message, from_edges, weights=[wrong])


def test_indices_are_pixels_of_the_tree():
    for act in (lambda i: TREE.minimax(i, 0), lambda i: TREE.minimax(0, i), lambda i: TREE.affinity(i, 1)):
        expect(ValueError, r"must be in \[0, 12\), got values from 12 to 12", act, 12)
        expect(ValueError, r"must be in \[0, 12\), got values from -1 to -1", act, -1)
        expect(TypeError, "must hold integers, got dtype float64", act, 1.0)
        expect(TypeError, "must hold integers, got dtype bool", act, True)
        expect(TypeError, "must hold integers, got dtype <U1", act, "1")
        expect(TypeError, "must hold integers, got dtype object", act, None)
        expect(ValueError, r"one coordinate for each axis of \(3, 4\), got \(1, 2, 3\)", act, (1, 2, 3))
        expect(ValueError, r"\[1\] must be in \[0, 4\), got values from 4 to 4", act, (0, 4))
        expect(ValueError, r"\[0\] must be in \[0, 3\), got values from -1 to -1", act, (-1, 0))
        expect(TypeError, r"\[0\] must hold integers, got dtype float64", act, (0.0, 0))
    expect(ValueError, r"index must be one pixel, got 2 of shape \(2,\)", TREE.affinity, [0, 1], 1.0)


def test_threshold_is_a_number_of_at_least_0():
    for wrong in (-1, -1e-300, np.nan):
        expect(ValueError, rf"threshold must be at least 0, got {float(wrong)}", TREE.cut, wrong)
    for wrong in (False, True, "0", None, [0.0], np.zeros(2)):
        expect(TypeError, "threshold must be a real number, got ", TREE.cut, wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overflow_of_sums(dtype):
    values = np.full((3, 4), np.finfo(dtype).max, dtype)
    message = f"sums of values overflow {np.dtype(dtype)}: scale values down"
    if dtype == np.float32:  # which global propagation adds up in float64
        assert (gp(values, zeta=1e9) == values).all()
        message += " or pass it as float64"
    else:
        expect(ValueError, message, gp, values, zeta=1e9)
        expect(ValueError, message, gp, values, zeta=[1e9], out=np.empty((1, 3, 4)))
        expect(ValueError, message, related.tree_filter, values, TREE, zeta=1e9)
    expect(ValueError, message, lp, values, zeta=1e9)


@pytest.mark.parametrize(
    "act",
    [
        lambda: mst(np.broadcast_to(np.float32(0), (1 << 24, 1 << 24))),
        lambda: mst(np.broadcast_to(np.uint8(0), (1 << 24, 1 << 24))),
        lambda: mst(np.broadcast_to(np.float64(0), (1 << 57, 1, 4, 1)), check_finite=False),
        lambda: gp(np.broadcast_to(np.float32(0), (3, 4, 1 << 48))),
        lambda: gp(np.broadcast_to(np.float64(0), (1 << 48, 3, 4, 1))),
        lambda: gp(features=np.broadcast_to(np.float32(0), (3, 4, 1 << 48))),
        lambda: lp(*[np.broadcast_to(np.float32(0), (1 << 24, 1 << 24))] * 2),
        lambda: lp(np.broadcast_to(np.uint8(0), (3, 4, 1 << 48))),
        lambda: TREE.reweight(np.broadcast_to(np.int64(0), (3, 4, 1 << 48))),
        lambda: from_edges(n_nodes=1 << 48),
        lambda: from_edges(n_nodes=10**18),
        lambda: from_edges(n_nodes=10**30),
    ],
)
def test_too_large_is_a_memory_error_at_once(act):
    # More than 2^47 bytes each, which no process can have.
    with pytest.raises(MemoryError):
        act()


ASKS = {
    "mst": aproarray.mst,
    "local_propagate": lambda image, **options: aproarray.local_propagate(
        np.zeros((8, 64, 64)), image, zeta=1, iterations=0, **options
    ),
    "mean_field": lambda image, **options: related.mean_field(
        np.zeros((8, 64, 64)), image, zeta=1, iterations=0, **options
    ),
    "pamr": lambda image, **options: related.pamr(np.zeros((8, 64, 64)), image, iterations=0, **options),
    "pairwise_affinity": lambda image, **options: related.pairwise_affinity(
        image, theta=1.0, dilation=1, **options
    ),
    "LabelPropagator": aproarray.LabelPropagator,
    "affinity_map": lambda image, **options: aproarray.affinity_map(
        image, (0,) * options.get("spatial_ndim", 2), **options
    ),
}


@pytest.mark.parametrize("name", ASKS)
def test_an_image_whose_axes_can_be_read_in_several_ways_asks(name):
    act = ASKS[name]
    volume = np.zeros((8, 64, 64))
    message = (
        r"image of shape \(8, 64, 64\) can be read in several ways. Pass channel_axis=-1 \(8 x 64 pixels "
        r"with 64 channels\), or spatial_ndim=3 \(8 x 64 x 64 pixels, no channels\)"
    )
    takes_batches = name not in ("LabelPropagator", "affinity_map")
    message += (
        r", or channel_axis=None \(8 images of 64 x 64 pixels, no channels\)$" if takes_batches else "$"
    )
    expect(ValueError, message, act, volume)
    for told in ({"channel_axis": -1}, {"spatial_ndim": 3}):
        act(volume, **told)


def test_the_readings_of_an_image():
    message = r"channel_axis=0 \(9 x 64 pixels with 3 channels\), or spatial_ndim=3"
    expect(ValueError, message, mst, np.zeros((3, 9, 64)))
    message = (
        r"channel_axis=1 \(2 images of 9 x 64 pixels with 3 channels\), or channel_axis=None \(2 x 3 images"
    )
    expect(ValueError, message, mst, np.zeros((2, 3, 9, 64)))
    expect(ValueError, r"channel_axis=-1 \(5 pixels with 0 channels\)", mst, np.zeros((5, 0)), spatial_ndim=1)
    for channels in (1, 2, 3, 4):
        image = np.random.default_rng(0).random((5, 6, channels))
        assert mst(image) == mst(image, channel_axis=-1)
    assert mst(np.stack([image, image])).batch_shape == (2,)


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, ZeroDivisionError])
@pytest.mark.parametrize("name", ["image", "values", "mask", "labels", "scores", "pixel"])
def test_an_array_that_cannot_be_made_is_named(name, error):
    class Broken:
        def __array__(self, *args, **options):
            raise error("no numbers today")

    labels, image = np.eye(8, dtype=int), np.zeros((8, 8))
    calls = {
        "image": lambda: aproarray.propagate_labels(Broken(), labels),
        "values": lambda: lp(Broken()),
        "mask": lambda: aproarray.propagate_labels(image, labels, mask=Broken()),
        "labels": lambda: aproarray.propagate_labels(image, Broken()),
        "scores": lambda: aproarray.refine(image, Broken()),
        "pixel": lambda: aproarray.affinity_map(image, Broken()),
    }
    kind = ValueError if error is ValueError else TypeError
    expect(kind, f"{name} cannot be made an array: no numbers today", calls[name])
