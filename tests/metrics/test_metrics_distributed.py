"""The metrics over two real processes."""

import time

import pytest
import torch
from torch.testing import assert_close

from lightning_bounds.metrics import FittedFlips, MarginDistribution, Misclassification


def random_samples():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(13, 3, generator=generator, dtype=torch.float32)
    return outputs, torch.randint(3, (13,), generator=generator), torch.randint(3, (13,), generator=generator)


def values_of(part):
    outputs, labels, original_labels = (tensor[part] for tensor in random_samples())
    metrics = Misclassification(), FittedFlips(), MarginDistribution()
    if len(outputs):
        metrics[0].update(outputs, labels)
        metrics[1].update(outputs, labels, original_labels)
        metrics[2].update(outputs, labels)
    return [metric.compute() for metric in metrics]


def process(rank, folder, shards):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.save(values_of(slice(*shards[rank])), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("shards", [((0, 4), (4, 13)), ((0, 13), (13, 13))], ids=["uneven", "one_without_samples"])
def test_two_processes_compute_the_value_of_all_samples(shards, tmp_path):
    context = torch.multiprocessing.spawn(process, args=(str(tmp_path), shards), nprocs=2, join=False)
    deadline = time.monotonic() + 60
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for child in context.processes:
                child.kill()
            pytest.fail("The two processes did not finish within 60 seconds.")
    expected = values_of(slice(0, 13))
    assert_close(torch.load(tmp_path / "0.pt"), expected, check_dtype=False)
    assert_close(torch.load(tmp_path / "1.pt"), expected, check_dtype=False)
