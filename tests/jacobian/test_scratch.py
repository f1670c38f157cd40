"""Memory that is used again holds what was last asked for."""

import pytest
import torch

from lightning_bounds.jacobian.scratch import Scratch


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (1, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_taken_has_the_shape_and_precision_asked_for(shape, dtype):
    taken = Scratch().take("patches", shape, torch.zeros(1, dtype=dtype))
    assert (taken.shape, taken.dtype) == (torch.Size(shape), dtype)
    assert taken.is_contiguous()


@pytest.mark.parametrize(("first", "second", "same"), [((6,), (2, 3), True), ((6,), (5,), True), ((6,), (7,), False)])
def test_memory_is_used_again_where_it_is_large_enough(first, second, same):
    scratch, like = Scratch(), torch.zeros(1)
    address = scratch.take("patches", first, like).data_ptr()
    assert (scratch.take("patches", second, like).data_ptr() == address) == same


def test_a_larger_buffer_stays_for_what_follows():
    scratch, like = Scratch(), torch.zeros(1)
    scratch.take("patches", (2,), like)
    large = scratch.take("patches", (9,), like).data_ptr()
    assert scratch.take("patches", (2,), like).data_ptr() == large


def test_purposes_and_precisions_do_not_share_memory():
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch.take("patches", (3,), like).fill_(1)
    scratch.take("gradients", (3,), like).fill_(2)
    assert first.tolist() == [1, 1, 1]
    other = scratch.take("patches", (3,), like.float())
    assert other.data_ptr() != first.data_ptr()
