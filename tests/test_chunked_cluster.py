"""Dask arrays on several processes: one of them dies in the middle, and the result is the same bits."""

import os
import signal
import time

import dask.array as da
import numpy as np
import pytest

import aproarray

distributed = pytest.importorskip("distributed")


def dies_once(block, flag, call=1):
    """Return a block; the process of that call, by whatever process, ends without a word."""
    for number in range(1, call + 1):
        try:
            os.close(os.open(f"{flag}{number}", os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            continue
    else:
        return block
    if number < call:
        return block
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return block


@pytest.mark.slow("starts a cluster; the threads' and processes' schedulers are tried by default")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.filterwarnings("default")
def test_labels_on_a_cluster_one_of_whose_workers_dies(tmp_path):
    chunks = (60, 60, 3)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (6, 6, 3)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
    seeds = np.zeros((120, 120), np.uint8)
    seeds[rng.integers(0, 120, 9), rng.integers(0, 120, 9)] = rng.integers(1, 4, 9)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
    ):  # fmt: skip
        deadly = da.from_array(image, chunks=chunks).map_blocks(
            dies_once, str(tmp_path / "died"), 18, dtype=image.dtype, meta=image[:0]
        )
        result = aproarray.propagate_labels(deadly, seeds).compute()
    assert (tmp_path / "died18").exists()  # in the fifth of seven readings
    here = aproarray.propagate_labels(da.from_array(image, chunks=chunks), seeds)
    np.testing.assert_array_equal(result, here.compute(scheduler="synchronous"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
# Ends of processes that were killed, as distributed and asyncio report them.
@pytest.mark.filterwarnings("default")
def test_a_worker_that_dies_does_not_change_the_result(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, (60, 60, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    values = np.zeros((120, 120, 3), np.float32)
    values[rng.integers(0, 120, 9), rng.integers(0, 120, 9), rng.integers(0, 3, 9)] = 1
    lazy_image = da.from_array(image, chunks=(30, 40, 3))
    tree = aproarray.mst(lazy_image)
    expected = aproarray.global_propagate(da.from_array(values, chunks=(30, 40, 3)), tree, zeta=2.0)
    expected = expected.compute(scheduler="synchronous")
    flag = tmp_path / "died"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        pids = set(client.run(os.getpid).values())
        kept = tree.persist()
        distributed.wait(kept)
        lazy_values = da.from_array(values, chunks=(30, 40, 3))
        deadly = lazy_values.map_blocks(dies_once, str(flag), dtype=values.dtype, meta=values[:0])
        result = aproarray.global_propagate(deadly, kept, zeta=2.0)
        np.testing.assert_array_equal(result.compute(), expected)
        assert (tmp_path / "died1").exists()
        client.wait_for_workers(2, timeout=60)
        assert set(client.run(os.getpid).values()) != pids
        again = aproarray.global_propagate(lazy_values, tree, zeta=2.0)
        np.testing.assert_array_equal(again.compute(), expected)
