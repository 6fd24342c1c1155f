"""Which classes a picture of strokes means: what somebody painted, not what smoothing made of it."""

import numpy as np
import pytest

from aproarray import _files, _paint

Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")

COLOURS = [(255, 0, 0), (0, 200, 0), (30, 60, 255)]
LINES = [[(10, 10), (60, 25), (110, 12)], [(12, 50), (60, 70), (100, 48)], [(20, 90), (70, 85), (110, 92)]]
CROSSING = [LINES[0], [(60, 5), (50, 95)], LINES[2]]


def draw(background, width, lines=LINES, *, colours=COLOURS, scale=1, mode="RGB"):
    picture = Image.new(mode, (120 * scale, 100 * scale), background)
    pen = ImageDraw.Draw(picture)
    for colour, line in zip(colours, lines, strict=True):
        at = [(x * scale, y * scale) for x, y in line]
        pen.line(at, fill=colour if mode == "RGB" else (*colour, 255), width=round(width * scale))
    return picture


def smooth(*arguments, resample="LANCZOS", **options):
    return draw(*arguments, scale=4, **options).resize((120, 100), Image.Resampling[resample])


def read(picture, tmp_path, unlabelled=None, suffix=".png"):
    path = tmp_path / f"strokes{suffix}"
    picture.save(path)
    return _paint.strokes(_files.read(path), unlabelled=unlabelled)


def assert_same_classes(found, crisp, colours=COLOURS, tolerance=90):
    """Check that the classes are the strokes: each label lies on its own stroke, and every stroke has one."""
    assert len(found.colours) == len(colours)
    crisp = np.asarray(crisp.convert("RGB")).astype(int)
    order = [
        np.linalg.norm(np.array(colours) - colour, axis=-1).argmin() for colour in found.colours.astype(int)
    ]
    assert sorted(order) == list(range(len(colours)))
    for number, at in enumerate(order, 1):
        own = found.numbers == number
        assert own.sum() >= 10
        assert (crisp[own] == colours[at]).all(-1).mean() > 0.8
        assert np.linalg.norm(found.colours[number - 1].astype(int) - colours[at]) < tolerance


@pytest.mark.parametrize("lines", [LINES, CROSSING], ids=["apart", "crossing"])
@pytest.mark.parametrize("resample", ["BOX", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("width", [1.5, 3, 8])
@pytest.mark.parametrize(
    "background", [(0, 0, 0), (255, 255, 255), (200, 200, 200)], ids=["black", "white", "grey"]
)
def test_smooth_strokes_are_one_class_each(background, width, resample, lines, tmp_path):
    picture = smooth(background, width, lines, resample=resample)
    assert len(picture.getcolors(10**6)) > 36
    assert_same_classes(read(picture, tmp_path), draw(background, width + 4, lines))


@pytest.mark.parametrize("resampled", ["shrunk", "enlarged", "rotated"])
def test_many_crossing_strokes(resampled, tmp_path):
    picture = Image.new("RGB", (1000, 750))
    pen, rng = ImageDraw.Draw(picture), np.random.default_rng(0)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    for number in range(40):
        at = [tuple(corner) for corner in rng.integers(0, 750, (4, 2)).tolist()]
        pen.line(at, fill=colours[number % 4], width=8)
    if resampled == "rotated":
        picture = picture.rotate(10, Image.Resampling.BICUBIC)
    else:
        size = (333, 250) if resampled == "shrunk" else (1500, 1125)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    found = read(picture, tmp_path)
    assert found.colours.tolist() == sorted(map(list, colours))
    own = np.array(picture).astype(int)[found.numbers > 0]
    off = np.linalg.norm(own - found.colours[found.numbers[found.numbers > 0] - 1], axis=-1)
    assert np.mean(off < 32) > 0.95


@pytest.mark.parametrize("hidden", [(0, 0, 0, 0), (255, 255, 255, 0)])
@pytest.mark.parametrize("width", [1, 4])
def test_smooth_strokes_on_nothing(hidden, width, tmp_path):
    picture = smooth(hidden, width, mode="RGBA")
    found = read(picture, tmp_path)
    assert_same_classes(found, draw((0, 0, 0), width + 4))
    assert not found.numbers[np.asarray(picture)[..., 3] < 128].any()  # low alpha is no stroke


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (90, 120, 200)])
def test_crisp_strokes_keep_their_pixels(background, tmp_path):
    colours = [(255, 10, 0), (255, 30, 0), (128, 5, 0)]  # near colours, of which nothing is a mixture
    picture = draw(background, 1, CROSSING, colours=colours)
    found = read(picture, tmp_path, unlabelled=background if background == (90, 120, 200) else None)
    assert found.colours.tolist() == sorted(map(list, colours))
    values = np.concatenate([[background], found.colours])[found.numbers]
    assert np.array_equal(values, np.asarray(picture))


def test_a_class_of_one_pixel(tmp_path):
    array = np.zeros((20, 20, 3), np.uint8)
    array[3, 4], array[10, 10] = (200, 0, 0), (0, 200, 0)
    found = read(Image.fromarray(array), tmp_path)
    assert found.numbers[3, 4] == 2
    assert found.numbers[10, 10] == 1
    assert np.count_nonzero(found.numbers) == 2


def test_a_darker_class_is_no_border_of_another(tmp_path):
    colours = [(128, 0, 0), (0, 128, 0), (64, 0, 0)]  # Pascal VOC's, all but one a mixture with black
    for picture in (
        draw((0, 0, 0), 1, colours=colours),
        smooth((0, 0, 0), 4, colours=colours, resample="BOX"),
    ):
        found = read(picture, tmp_path)
        assert found.colours.tolist() == sorted(map(list, colours))


def test_black_strokes_on_white_and_on_nothing(tmp_path):
    colours = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    expected = [[0, 0, 0], [0, 0, 255], [255, 0, 0]]
    for picture in (
        draw((255, 255, 255), 3, colours=colours),
        draw((0, 0, 0, 0), 3, colours=colours, mode="RGBA"),
        draw((255, 255, 255), 3, colours=colours).quantize(8),
    ):
        assert read(picture, tmp_path).colours.tolist() == expected


def test_an_unclear_background_is_asked_for(tmp_path):
    picture = draw((90, 120, 200), 3, colours=[(0, 0, 0), (255, 0, 0), (0, 200, 0)])
    with pytest.raises(_files.FileError, match=r"is #5a78c8 or black .* Give --unlabelled '#5a78c8' or"):
        read(picture, tmp_path)
    found = read(picture, tmp_path, unlabelled=(90, 120, 200))
    assert found.colours.tolist() == [[0, 0, 0], [0, 200, 0], [255, 0, 0]]


def test_a_frame_is_no_background(tmp_path):
    array = np.zeros((30, 40, 3), np.uint8)
    array[[0, -1]] = array[:, [0, -1]] = (0, 0, 255)
    array[10, 10:20] = (255, 0, 0)
    found = read(Image.fromarray(array), tmp_path)
    assert found.colours.tolist() == [[0, 0, 255], [255, 0, 0]]
    assert found.numbers[0, 0] == 1
    assert found.numbers[5, 5] == 0


@pytest.mark.parametrize("kind", ["photograph", "jpeg", "alike"])
def test_what_is_no_paint_is_listed(kind, tmp_path):
    if kind == "photograph":
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 120, 3), np.uint8))
    elif kind == "jpeg":
        draw((0, 0, 0), 4).save(tmp_path / "lossy.jpg", quality=90)
        picture = Image.open(tmp_path / "lossy.jpg")
    else:
        picture = draw((0, 0, 0), 4, colours=[(200, 0, 0), (203, 0, 0), (0, 0, 200)])
    message = (
        "colours that look the same, #c80000" if kind == "alike" else r"colours, expected a class each: #\w"
    )
    with pytest.raises(_files.FileError, match=message):
        read(picture, tmp_path)


def test_indices_of_a_palette(tmp_path):
    quantized = draw((0, 0, 0), 3).quantize(8)
    quantized = quantized.remap_palette([1, 0, 2, 3])  # black is not the first
    assert np.asarray(quantized)[0, 0] != 0
    assert_same_classes(read(quantized, tmp_path), draw((0, 0, 0), 3))

    voc = Image.fromarray(np.asarray(draw((0, 0, 0), 3).convert("L")) // 20).convert("L")
    numbers = np.asarray(voc)
    voc.putpalette([0, 0, 0] + [200, 10, 10] * 255)  # numbers, all of one colour
    assert np.array_equal(read(voc, tmp_path).numbers, numbers)

    voc.info["transparency"] = int(numbers.max())  # an entry that is not seen
    path = tmp_path / "transparent.png"
    voc.save(path, transparency=int(numbers.max()))
    found = _paint.strokes(_files.read(path)).numbers
    assert np.array_equal(found, np.where(numbers == numbers.max(), 0, numbers))


def test_grey_levels_that_are_no_labels(tmp_path):
    greys = [(255, 255, 255), (100, 100, 100), (180, 180, 180)]
    on_black = smooth((0, 0, 0), 6, colours=greys, resample="BOX")
    for picture in (on_black, on_black.convert("L")):
        with pytest.raises(_files.FileError, match="grey strokes with smooth borders"):
            read(picture, tmp_path)
        assert len(read(picture, tmp_path, unlabelled=(0, 0, 0)).colours) == 3
        assert read(picture, tmp_path, unlabelled=0).colours is None
    on_white = draw((255, 255, 255), 4, colours=[(0, 0, 0), *greys[1:]])
    with pytest.raises(_files.FileError, match="255 in most pixels: give --unlabelled 255"):
        read(on_white, tmp_path)
    assert read(on_white, tmp_path, unlabelled=(255, 255, 255)).colours[:, 0].tolist() == [0, 100, 180]


def test_unlabelled_numbers(tmp_path):
    array = np.full((20, 30), 255, np.uint8)
    array[3, 3:9], array[10, 3:9], array[15, 3:9] = 0, 1, 7
    found = read(Image.fromarray(array), tmp_path, unlabelled=255)
    assert found.unlabelled == 255
    assert np.unique(found.numbers).tolist() == [0, 1, 2, 8]
    assert np.array_equal(found.as_in_file(found.numbers), array)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool])
def test_arrays_of_numbers(dtype, tmp_path):
    array = np.zeros((5, 6), dtype)
    array[2, 2] = 1
    np.save(tmp_path / "array.npy", array)
    found = _paint.strokes(_files.read(tmp_path / "array.npy"))
    assert found.numbers.dtype.kind in "iu"
    assert np.array_equal(found.numbers, array)
    if dtype is np.float32:
        array[0, 0], array[0, 1] = np.nan, 1.5
        np.save(tmp_path / "array.npy", array)
        with pytest.raises(_files.FileError, match="must hold whole numbers"):
            _paint.strokes(_files.read(tmp_path / "array.npy"))
        array[0, 1] = 2
        np.save(tmp_path / "array.npy", array)
        assert _paint.strokes(_files.read(tmp_path / "array.npy")).numbers[0, :2].tolist() == [0, 2]


def raster(values, **about):
    return _files.Raster("strokes.npy", values, about.pop("channels", None), **about)


@pytest.mark.parametrize(
    ("values", "about", "unlabelled", "said"),
    [
        (np.zeros((0, 6), np.uint8), {}, None, r"of shape \(0, 6\) holds no pixels"),
        (
            np.zeros((5, 6, 2), np.uint8),
            {"channels": True},
            None,
            "expected a number for each pixel, or 8-bit",
        ),
        (np.zeros((5, 6, 3), np.uint16), {"channels": True}, None, "dtype uint16 holds no labels"),
        (np.zeros((5, 6), complex), {}, None, "of dtype complex128 must hold integers"),
        (np.zeros((5, 6), np.int16), {}, (0, 0, 0), "holds numbers: --unlabelled must be a number"),
        (np.full((5, 6), 2**63, np.uint64), {}, 7, "labels above 2\\^63 - 2, .* --unlabelled 7"),
        (np.eye(6, dtype=np.uint8)[..., None] * (9, 0, 0), {"channels": True}, 3, "must be a colour such as"),
    ],
    ids=["empty", "two channels", "16 bits", "complex", "a colour", "large", "a number"],
)
def test_what_holds_no_labels_says_so(values, about, unlabelled, said):
    if values.ndim == 3:
        values = values.astype(np.uint16 if values.dtype == np.uint16 else np.uint8)
    with pytest.raises(_files.FileError, match=said):
        _paint.strokes(raster(values, **about), unlabelled=unlabelled)


def test_too_many_colours_are_listed():
    every = np.arange(1, 20001)  # one is taken for the background
    values = np.stack([every >> 16, every >> 8 & 255, every & 255], -1).astype(np.uint8).reshape(100, 200, 3)
    with pytest.raises(_files.FileError, match=r"strokes\.npy has 19999 colours, expected a class each"):
        _paint.strokes(raster(values, channels=True))
    few = np.zeros((100, 200, 3), np.uint8)  # each fills a square, more than there are labels
    steps = np.array(
        [(r, g, b) for r in range(0, 256, 36) for g in range(0, 256, 36) for b in range(0, 256, 36)]
    )
    for at, colour in enumerate(steps[1:301]):
        row, column = divmod(at, 40)
        few[4 + 5 * row : 7 + 5 * row, 1 + 5 * column : 4 + 5 * column] = colour
    with pytest.raises(_files.FileError, match="has 300 colours, expected a class each"):
        _paint.strokes(raster(few, channels=True))


def test_numbers_that_come_as_colours():
    """One channel, grey RGB, RGBA of an array, and palettes of grey levels."""
    numbers = np.zeros((9, 12), np.uint8)
    numbers[2, 2:6], numbers[5, 2:6] = 1, 7
    for values, about in (
        (numbers[..., None], {"channels": True}),
        (np.repeat(numbers[..., None], 3, -1), {"channels": True}),
        (np.repeat(numbers[..., None], 3, -1), {}),
        (numbers, {"palette": np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1) | (0, 0, 0, 255)}),
    ):
        if "palette" in about:
            about["palette"] = about["palette"].astype(np.uint8)
        assert np.array_equal(_paint.strokes(raster(values, **about)).numbers, numbers)
    hidden = np.dstack(
        [np.repeat(numbers[..., None], 3, -1), np.where(numbers == 7, 0, 255).astype(np.uint8)]
    )
    assert np.array_equal(_paint.strokes(raster(hidden)).numbers, np.where(numbers == 7, 0, numbers))
    with_nodata = raster(np.where(numbers == 0, np.int16(-1), numbers), nodata=-1.0)
    found = _paint.strokes(with_nodata)
    assert found.unlabelled == -1
    assert np.array_equal(found.numbers > 0, numbers > 0)
    indexed = raster(numbers, palette=np.tile(np.uint8([9, 0, 0, 255]), (256, 1)))
    assert np.array_equal(_paint.strokes(indexed, unlabelled=0).numbers, numbers)


def test_overlays_of_any_channels():
    labels = np.ones((6, 8), np.uint8)
    grey = np.arange(48.0).reshape(6, 8)
    expected = _paint.overlay(grey, labels, None, None)
    assert np.array_equal(_paint.overlay(np.stack([grey, grey], -1), labels, None, None), expected)
    with pytest.raises(ValueError, match="an overlay needs a 2-D image"):
        _paint.overlay(np.zeros((2, 6, 8)), np.ones((2, 6, 8), int), None, None)
