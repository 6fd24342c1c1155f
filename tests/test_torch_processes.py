"""Several processes: data-parallel training steps, and forked data loader workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aproarray

torch = pytest.importorskip("torch", reason="torch is not installed")

# One training step over all operators that have gradients, on some of four images.
STEP = """
import sys
import torch
from aproarray.torch import GlobalPropagation, LocalPropagation, apro_loss

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 2, 1)
        self.line = GlobalPropagation(0.3, feature_zeta=0.5, learnable=True)
        self.window = LocalPropagation(0.4, kernel_size=3, iterations=3, learnable=True)

    def forward(self, image):
        scores = self.convolution(image).softmax(1)
        return scores, self.window(self.line(scores, image), image)

def network():
    torch.manual_seed(0)
    return Network().double()

def step(network, first, stop):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 3, 12, 14, generator=generator, dtype=torch.float64)[first:stop]
    scores, soft = network(image)
    unlabelled = image[:, :1] < 0.7
    (apro_loss(scores, image, unlabelled) + (soft - image[:, :2]).square().mean()).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]
"""

PROCESS = """
from datetime import timedelta
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=200)
)
parallel = torch.nn.parallel.DistributedDataParallel(network())
torch.save(step(parallel, 2 * rank, 2 * rank + 2), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""

LOADER = """
import numpy as np
import torch
import aproarray
from aproarray.torch import global_propagate, local_propagate, mst

def prepared(i):
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(i))
    tree = mst(image)
    soft = local_propagate(global_propagate(image, tree, zeta=0.2), image, iterations=2)
    cut = aproarray.mst(np.asarray(image), channel_axis=0, workers=2)
    return tree, soft, aproarray.global_propagate(np.asarray(image), cut, zeta=0.2, channel_axis=0, workers=2)

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return prepared(i)

torch.set_num_threads(4)
torch.manual_seed(0)
big = torch.rand(2, 3, 800, 900)  # tiles, threads
propagated = local_propagate(global_propagate(big, mst(big), zeta=0.2).requires_grad_(), big, iterations=2)
propagated.sum().backward()
expected = [prepared(i) for i in range(6)]
loader = torch.utils.data.DataLoader(Images(), 2, num_workers=2, multiprocessing_context="fork", timeout=200)
for _ in range(2):
    for k, (tree, soft, other) in enumerate(loader):
        for i in range(2):
            ours, theirs = (*(x[i] for x in tree), soft[i], other[i]), expected[2 * k + i]
            theirs = (*theirs[0], theirs[1], torch.as_tensor(theirs[2]))
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
print("the same")
"""


def start(code, *arguments):
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(aproarray.__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs(processes, timeout):
    try:
        for process in processes:
            output, errors = process.communicate(timeout=timeout)
            assert process.returncode == 0, errors
            yield output
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_available(),
    reason="needs gloo on the loopback device",
)
def test_data_parallel_processes_have_the_gradients_of_one(tmp_path):
    list(outputs([start(STEP + PROCESS, rank, tmp_path) for rank in range(2)], timeout=300))
    names = {}
    exec(STEP, names)
    halves = [names["step"](names["network"](), *bounds) for bounds in ((0, 2), (2, 4))]
    for ours, other, *expected in zip(
        torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt"), *halves, strict=True
    ):
        assert torch.equal(ours, other)
        torch.testing.assert_close(ours, sum(expected) / 2, rtol=1e-12, atol=1e-14)
        assert ours.abs().sum() > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_do_not_hang_after_the_parent_used_threads():
    assert list(outputs([start(LOADER)], timeout=300)) == ["the same\n"]
