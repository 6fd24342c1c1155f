"""The example of a large image, on a small one."""

import pytest

for module in ("zarr", "dask", "matplotlib", "PIL"):
    pytest.importorskip(module)

import dask  # noqa: E402
import large_image  # noqa: E402


def test_strokes_reach_their_fields_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(large_image, "FIELD", 150)
    with dask.config.set(scheduler="synchronous"):
        large_image.write_inputs(tmp_path, side=400, chunk=170)
        large_image.propagate(tmp_path)
        assert large_image.right_share(tmp_path, step=3) > 0.97
        assert large_image.overview(tmp_path, step=4).is_file()
