"""Patches of images, entry by entry."""

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - its usual name

from lightning_bounds.jacobian.scratch import Scratch
from lightning_bounds.jacobian.unfolding import padding_of, patches, transposed_patches, tuple_of

EXAMPLES = settings(
    deadline=None, max_examples=30, derandomize=True, database=None, phases=(Phase.generate, Phase.shrink)
)


def patches_by_loop(images, kernel, stride, padding, dilation):
    """Every number that every place sees, looked up one by one; zero outside of the image."""
    size = images.shape[2:]
    places = [
        range((length + sum(pad) - d * (k - 1) - 1) // s + 1)
        for length, k, s, pad, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    columns = []
    for place in itertools.product(*places):
        column = []
        for channel, offset in itertools.product(range(images.shape[1]), itertools.product(*map(range, kernel))):
            at = [
                p * s + o * d - pad[0] for p, s, o, d, pad in zip(place, stride, offset, dilation, padding, strict=True)
            ]
            inside = all(0 <= a < length for a, length in zip(at, size, strict=True))
            column.append(images[(slice(None), channel, *at)] if inside else images.new_zeros(len(images)))
        columns.append(torch.stack(column, dim=1))
    return torch.stack(columns, dim=2)


@pytest.mark.parametrize("scratch", [None, Scratch()], ids=["fresh", "scratch"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@EXAMPLES
@given(st.data())
def test_patches(scratch, dims, data):
    kernel, stride, dilation = (data.draw(st.tuples(*(st.integers(1, 2),) * dims)) for _ in range(3))
    padding = data.draw(st.tuples(*(st.tuples(st.integers(0, 2), st.integers(0, 2)),) * dims))
    size = [d * (k - 1) + 1 + data.draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True)]
    images = torch.arange(1.0, 5 * torch.Size(size).numel() + 1)[: 4 * torch.Size(size).numel()].reshape(2, 2, *size)
    images = images.movedim(1, -1).contiguous().movedim(-1, 1) if data.draw(st.booleans(), "channels last") else images
    found = patches(images, kernel, stride, padding, dilation, scratch)
    assert torch.equal(found, patches_by_loop(images, kernel, stride, padding, dilation))


@pytest.mark.parametrize("kernel", [(2, 3), (1, 1), (3, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_patches_are_those_of_torch(kernel, stride):
    images = torch.randn(3, 2, 5, 6)
    found = patches(images, kernel, stride, ((1, 1), (0, 0)), (1, 1))
    torch.testing.assert_close(found, F.unfold(images, kernel, padding=(1, 0), stride=stride), rtol=0, atol=0)


def test_patches_of_an_expanded_image():
    image = torch.randn(1, 1, 4).expand(3, 2, 4)
    assert torch.equal(patches(image, (2,), (1,), ((0, 0),), (1,)), patches(image.clone(), (2,), (1,), ((0, 0),), (1,)))


@EXAMPLES
@given(st.data(), st.integers(1, 2))
def test_transposed_patches_are_adjoint_to_a_transposed_convolution(data, dims):
    """``<conv_transpose(x, w), g> = <w, x · patches(g)>`` for all ``w``."""
    kernel, stride, dilation, size = (data.draw(st.tuples(*(st.integers(1, 3),) * dims)) for _ in range(4))
    extra = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    reach = [(n - 1) * s + d * (k - 1) for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    padding = [data.draw(st.integers(0, min(2, (r + e) // 2))) for r, e in zip(reach, extra, strict=True)]
    function = (F.conv_transpose1d, F.conv_transpose2d)[dims - 1]
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 3, *size, generator=generator), torch.randn(3, 2, *kernel, generator=generator)
    y = function(x, w, None, stride, padding, extra, 1, dilation)
    g = torch.randn(y.shape, generator=generator)
    found = transposed_patches(g, kernel, stride, padding, dilation, size)
    by_weight = torch.einsum("nis,nps->ip", x.flatten(2), found)
    torch.testing.assert_close((by_weight * w.flatten(1)).sum(), (y * g).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("padding", "dilation", "expected"),
    [
        ("valid", (1, 2), ((0, 0), (0, 0))),
        ("same", (1, 1), ((1, 1), (0, 1))),
        ("same", (2, 3), ((2, 2), (1, 2))),
        ((2, 0), (1, 1), ((2, 2), (0, 0))),
    ],
)
def test_padding_before_and_after(padding, dilation, expected):
    assert padding_of({"padding": padding, "dilation": dilation}, (3, 2)) == expected


@pytest.mark.parametrize("value", [2, (2,), [2], (2, 2, 2), torch.Size([2])])
def test_one_number_stands_for_all_dimensions(value):
    assert tuple_of(value, 3) == (2, 2, 2)
