"""Reading pictures and arrays as people see them, and writing them whole or not at all."""

import errno
import io
import os
import stat
import threading

import numpy as np
import pytest

from aproarray import _files

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)


TURNED = {  # what is stored of a picture, by TIFF's and EXIF's orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_upright(orientation, suffix, rgb, tmp_path):
    smooth = np.asarray(Image.fromarray(rgb[:4, :6]).resize((60, 40)))  # which JPEG keeps nearly
    path = tmp_path / f"turned{suffix}"
    stored = np.ascontiguousarray(TURNED[orientation](smooth))
    if suffix == ".tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif, quality=95)
    found = _files.read(path).values.astype(int)
    assert found.shape == smooth.shape
    assert np.abs(found - smooth).mean() < 12


@pytest.mark.parametrize("kind", ["planar", "imagej", "ome"])
def test_channels_first(kind, rgb, tmp_path):
    path, first = tmp_path / "first.tif", np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    if kind == "planar":
        tifffile.imwrite(path, first, photometric="rgb", planarconfig="separate")
    else:
        options = {"imagej": True} if kind == "imagej" else {"ome": True, "photometric": "minisblack"}
        tifffile.imwrite(path, first, metadata={"axes": "CYX"}, **options)
    raster = _files.read(path)
    assert raster.channels is True
    assert np.array_equal(raster.values, rgb)


@pytest.mark.parametrize(
    ("n_bands", "extra", "kept", "has_alpha"),
    [
        (4, ["unassalpha"], 3, True),
        (4, ["assocalpha"], 3, True),
        (4, ["unspecified"], 4, False),
        (2, ["unspecified"], 2, False),
        (2, ["unassalpha"], 1, True),
        (5, ["unspecified", "unassalpha"], 4, True),
    ],
)
def test_only_alpha_is_dropped(n_bands, extra, kept, has_alpha, tmp_path):
    bands = np.random.default_rng(0).integers(0, 255, (20, 30, n_bands), np.uint8)
    path = tmp_path / "bands.tif"
    photometric = "rgb" if n_bands > 2 else "minisblack"
    tifffile.imwrite(path, bands, photometric=photometric, planarconfig="contig", extrasamples=extra)
    raster = _files.read(path)
    assert np.array_equal(raster.values, bands[..., :kept])
    assert (raster.alpha is not None) == has_alpha
    if has_alpha:
        assert np.array_equal(raster.alpha, bands[..., -1])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_pictures(mode, rgb, tmp_path):
    picture = Image.fromarray(np.dstack([rgb, rgb[..., 0]])).convert(mode)
    picture.save(tmp_path / "alpha.png")
    raster = _files.read(tmp_path / "alpha.png")
    assert raster.values.shape == ((20, 30, 3) if mode == "RGBA" else (20, 30))
    assert np.array_equal(raster.alpha, rgb[..., 0])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_other_modes_of_pictures(mode, rgb, tmp_path):
    """One colour of a grey or RGB picture may be transparent; other spaces are turned into RGB."""
    picture = Image.fromarray(rgb).convert(mode)
    path = tmp_path / ("picture.png" if mode in ("L", "RGB") else "picture.jpg")
    hidden = picture.getpixel((3, 4))
    picture.save(path, **({"transparency": hidden} if mode in ("L", "RGB") else {}))
    raster = _files.read(path)
    assert raster.values.shape == ((20, 30) if mode == "L" else (20, 30, 3))
    if mode in ("L", "RGB"):
        values = np.asarray(picture)
        same = values == hidden if mode == "L" else (values == hidden).all(-1)
        assert np.array_equal(raster.values, values)
        assert np.array_equal(raster.alpha, np.where(same, 0, 255))


def test_palettes_with_several_degrees_of_transparency(tmp_path):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    picture.putpalette(list(range(36)))
    picture.save(tmp_path / "p.png", transparency=bytes([0, 7, 255]))
    palette = _files.read(tmp_path / "p.png").palette
    assert palette[:4, 3].tolist() == [0, 7, 255, 255]
    assert palette[11, :3].tolist() == [33, 34, 35]


def test_masks_in_colour_and_in_bands(rgb, tmp_path):
    inside = np.zeros((20, 30), bool)
    inside[3:9, 4:20] = True
    coloured = np.where(inside[..., None], np.maximum(rgb, 1), 0).astype(np.uint8)
    coloured[5, 5] = 0, 0, 9
    Image.fromarray(coloured).save(tmp_path / "mask.png")
    assert np.array_equal(_files.read_mask(tmp_path / "mask.png", (20, 30)), inside)


def test_volumes_and_arrays_without_axes(tmp_path):
    volume = np.random.default_rng(0).integers(0, 255, (4, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack", metadata={"axes": "ZYX"})
    assert _files.read(tmp_path / "v.tif").spatial_shapes == [(4, 20, 30)]
    tifffile.imwrite(tmp_path / "q.tif", volume, photometric="minisblack")
    assert _files.read(tmp_path / "q.tif").spatial_shapes == [(4, 20, 30), (4, 20)]
    np.save(tmp_path / "q.npy", volume)
    assert _files.read(tmp_path / "q.npy").spatial_shapes == [(4, 20, 30), (4, 20)]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_nodata_of_gdal(dtype, tmp_path):
    nodata = {"uint8": 0, "int16": -9999, "float32": -3.4028234663852886e38, "float64": np.nan}[dtype]
    image = np.arange(1, 601).reshape(20, 30).astype(dtype)
    image[:5] = nodata
    tag = (42113, "s", 0, f"{nodata!r}", True)
    tifffile.imwrite(tmp_path / "n.tif", image, photometric="minisblack", extratags=[tag])
    raster = _files.read(tmp_path / "n.tif")
    valid = _files.valid(raster.values, 2, raster.nodata)
    expected = np.arange(20)[:, None] >= 5
    if dtype == "uint8":
        expected = expected & (image != 0)
    assert np.array_equal(valid, np.broadcast_to(expected, (20, 30)))


def test_nodata_that_is_no_number_is_none(rgb, tmp_path):
    tifffile.imwrite(tmp_path / "n.tif", rgb[..., 0], extratags=[(42113, 2, 5, "none", True)])
    assert _files.read(tmp_path / "n.tif").nodata is None


def test_nodata_is_that_of_all_bands(rgb):
    rgb[3, 4], rgb[5, 6] = 0, (0, 9, 9)
    assert np.argwhere(~_files.valid(rgb, 2, 0)).tolist() == [[3, 4]]
    holes = rgb.astype(float)
    holes[7, 8, 1] = np.inf
    assert np.argwhere(~_files.valid(holes, 2, None)).tolist() == [[7, 8]]
    assert _files.valid(rgb, 2, None) is None


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "group4", "packbits"])
def test_codecs_of_tiff(compression, rgb, tmp_path):
    picture = Image.fromarray(np.repeat(np.repeat(rgb[:4, :6], 5, 0), 5, 1))
    picture = picture.convert("1") if compression == "group4" else picture
    path = tmp_path / "coded.tif"
    picture.save(path, compression=compression)
    found = _files.read(path).values
    assert found.shape == np.asarray(picture).shape
    assert np.abs(found.astype(int) - np.asarray(picture)).mean() < (60 if compression == "jpeg" else 0.01)


def test_stacks_in_lzw(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    frames = [Image.fromarray(frame) for frame in stack]
    frames[0].save(tmp_path / "s.tif", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    raster = _files.read(tmp_path / "s.tif")
    assert np.array_equal(raster.values, stack)
    assert raster.channels is False


def packed_tiff(path, values, bits):
    """Write grey numbers of 2, 4 or 12 bits, as tifffile and Pillow do not."""
    digits = "".join(
        "".join(f"{value:0{bits}b}" for value in row).ljust(-(-len(row) * bits // 8) * 8, "0")
        for row in values
    )
    data = int(digits, 2).to_bytes(len(digits) // 8, "big")
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    entries = b"".join(
        tag.to_bytes(2, "little")
        + (4).to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + number.to_bytes(4, "little")
        for tag, number in tags
    )
    at = 8 + len(data) + len(data) % 2
    head = b"II*\0" + at.to_bytes(4, "little")
    path.write_bytes(head + data.ljust(at - 8, b"\0") + len(tags).to_bytes(2, "little") + entries + bytes(4))


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_odd_bits_of_tiff(bits, tmp_path):
    values = np.random.default_rng(0).integers(0, 2**bits, (20, 32))
    packed_tiff(tmp_path / "bits.tif", values, bits)
    assert np.array_equal(_files.read(tmp_path / "bits.tif").values, values)


def test_bands_that_pillow_leaves_out_are_not_lost(tmp_path, monkeypatch):
    bands = np.zeros((20, 30, 4), np.uint8)
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, bands, photometric="rgb", extrasamples=["unspecified"])

    def without_codec(self, *_arguments, **_options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", without_codec)
    with pytest.raises(_files.FileError, match=r"bands.tif cannot be read: .*: pip install imagecodecs"):
        _files.read(path)


@pytest.mark.parametrize("kind", ["no picture to pillow", "several pages", "another fault"])
def test_what_neither_library_reads_names_the_package(kind, rgb, tmp_path, monkeypatch):
    path = tmp_path / "coded.tif"
    if kind == "several pages":
        tifffile.imwrite(path, np.stack([rgb, rgb]), photometric="rgb")
    else:
        tifffile.imwrite(path, rgb[..., 0].astype(np.float16 if kind == "no picture to pillow" else np.uint8))
    missing = "bits do not fit" if kind == "another fault" else "requires the 'imagecodecs' package"

    def without_codec(self, *_arguments, **_options):
        raise ValueError(missing)

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", without_codec)
    said = missing if kind == "another fault" else r"cannot be read: .*imagecodecs.*: pip install imagecodecs"
    with pytest.raises(_files.FileError, match=said):
        _files.read(path)


def test_palettes_of_tiff_are_colours(rgb, tmp_path):
    picture = Image.fromarray(rgb).quantize(16)
    picture.save(tmp_path / "p.tif")
    raster = _files.read(tmp_path / "p.tif")
    assert np.array_equal(raster.values, np.asarray(picture))
    assert np.array_equal(_files.image_of(raster), np.asarray(picture.convert("RGB")))


def test_folders_list_what_can_be_read(rgb, tmp_path):
    picture = Image.fromarray(rgb)
    for name in ("b.webp", "a.PNG", "c.gif", "d.ppm"):
        picture.save(tmp_path / name)
    for name in ("._a.PNG", ".hidden.png", "notes.txt", "table.h5", "vector.eps"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [path.name for path in _files.listed(str(tmp_path))] == ["a.PNG", "b.webp", "c.gif", "d.ppm"]


def test_the_limit_of_pixels_can_be_lifted(rgb, tmp_path, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(_files.FileError, match=r"large.png has more than .* give --any-size"):
        _files.read(tmp_path / "large.png")
    assert np.array_equal(_files.read(tmp_path / "large.png", any_size=True).values, rgb)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # a warning below twice the limit is no news
    assert np.array_equal(_files.read(tmp_path / "large.png").values, rgb)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_a_file_is_written_whole_or_not(suffix, rgb, tmp_path, monkeypatch):
    path = tmp_path / f"out{suffix}"
    _files.write(path, rgb[..., 0])
    path.chmod(0o640)
    before = path.read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for target in (path, tmp_path / f"new{suffix}"):
            with pytest.raises(_files.FileError, match=f"{target.name} cannot be written: No space left"):
                _files.write(target, rgb[..., 1])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    link = tmp_path / f"link{suffix}"
    link.symlink_to(path.name)
    _files.write(link, rgb[..., 1])
    assert link.is_symlink()
    assert np.array_equal(_files.read(path).values, rgb[..., 1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, np.uint8), (0, 65535, np.uint16), (0, 70000, np.uint32), (-1, 3, np.int32), (-1, 2**31, None)],
)
def test_labels_in_tiff(low, high, dtype, tmp_path):
    labels = np.array([[low, 0], [1, high]])
    raster = _files.Raster(tmp_path / "image.png", labels)
    path = tmp_path / "labels.tif"
    if dtype is None:
        with pytest.raises(_files.FileError, match=r"do not fit .tif: write them to .npy"):
            _files.write_labels(path, labels, like=raster)
    else:
        _files.write_labels(path, labels, like=raster)
        found = _files.read(path).values
        assert found.dtype == dtype
        assert np.array_equal(found, labels)


def test_nifti(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.random.default_rng(0).integers(0, 255, (4, 5, 6)).astype(np.int16)
    affine = np.diag([0.5, 0.5, 3, 1])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
    raster = _files.read(tmp_path / "v.nii.gz")
    assert np.array_equal(raster.values, volume)
    assert raster.spacing == (0.5, 0.5, 3)
    assert raster.channels is False
    _files.write_labels(tmp_path / "labels.nii", volume % 3, like=raster)
    labels = nibabel.load(tmp_path / "labels.nii")
    assert np.array_equal(labels.affine, affine)
    assert np.array_equal(np.asanyarray(labels.dataobj), volume % 3)
    assert _files.stem(tmp_path / "v.nii.gz") == "v"


@pytest.mark.skipif(os.name != "posix", reason="pipes are files on POSIX alone")
def test_a_pipe_is_written_to_as_it_is(rgb, tmp_path):
    path, received = tmp_path / "pipe.npy", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    _files.write(path, rgb)
    reader.join(60)
    assert np.array_equal(np.load(io.BytesIO(received[0])), rgb)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_folder_is_written_whole_or_not(tmp_path):
    path = tmp_path / "out.zarr"
    _files.write_folder(path, lambda folder: (folder / "old").write_text("1"))

    def full(folder):
        (folder / "new").write_text("2")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(_files.FileError, match=r"out\.zarr cannot be written: No space left"):
        _files.write_folder(path, full)
    assert [file.name for file in path.iterdir()] == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
    _files.write_folder(path, lambda folder: (folder / "new").write_text("2"))
    assert [file.name for file in path.iterdir()] == ["new"]
