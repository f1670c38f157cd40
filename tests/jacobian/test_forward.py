"""Any kind of inputs is cut by samples, and any kind of output becomes a matrix with one row per sample."""

from collections import UserDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from cases import WithDict
from torch import nn

from lightning_bounds.jacobian.forward import map_tensors, num_samples, output_matrix, prepared, select


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


INPUTS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, x[:, 0]),
    "list": lambda x: [x, x[:, 0]],
    "named_tuple": lambda x: Pair(x, x[:, 0]),
    "dict": lambda x: {"x": x, "y": x[:, 0]},
    "mapping": lambda x: UserDict(x=x, y=x[:, 0]),
    "scalar_first": lambda x: {"scale": torch.tensor(2.0), "x": x},
    "other_types": lambda x: {"flag": True, "name": "a", "x": x, "nothing": None},
}


def tensors(inputs):
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    leaves = inputs.values() if hasattr(inputs, "values") else inputs
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.fixture(params=INPUTS)
def inputs(request):
    return INPUTS[request.param](torch.arange(15.0).reshape(5, 3))


# Samples.


def test_the_number_of_samples_is_the_first_dimension(inputs):
    assert num_samples(inputs) == 5


@pytest.mark.parametrize("inputs", [3, None, (), [], {}, [1, 2], {"x": torch.tensor(1.0)}, torch.tensor(1.0), "abc"])
def test_inputs_without_samples_are_refused(inputs):
    with pytest.raises(TypeError, match=f"sequence or mapping of tensors, but got {type(inputs).__name__}"):
        num_samples(inputs)


@pytest.mark.parametrize("inputs", [torch.zeros(0, 3), (torch.zeros(0),), {"x": torch.zeros(0, 2)}])
def test_no_samples_are_refused(inputs):
    with pytest.raises(ValueError, match="at least one sample, but the first dimension of the inputs is 0"):
        num_samples(inputs)


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (1, 3), (4, 5)])
def test_taking_cuts_every_tensor_that_has_the_samples(inputs, start, stop):
    part = select(inputs, torch.arange(start, stop))
    expected = [tensor[start:stop] if tensor.dim() else tensor for tensor in tensors(inputs)]
    torch.testing.assert_close(tensors(part), expected, rtol=0, atol=0)


def test_taking_keeps_names_and_what_is_no_tensor():
    part = select({"x": torch.ones(4), "flag": True, "name": "a"}, torch.tensor([1]))
    assert part == {"x": torch.ones(1), "flag": True, "name": "a"}


def test_tensors_of_another_length_are_taken_whole():
    _, table = select((torch.arange(4), torch.arange(7)), torch.tensor([1, 2]))
    assert table.tolist() == list(range(7))


def test_what_is_taken_may_be_overwritten(inputs):
    before = [tensor.clone() for tensor in tensors(inputs)]
    map_tensors(select(inputs, torch.arange(5)), torch.Tensor.zero_)
    torch.testing.assert_close(tensors(inputs), before, rtol=0, atol=0)


def test_mapping_a_function_reaches_each_tensor_and_leaves_the_rest(inputs):
    doubled = map_tensors(inputs, lambda tensor: 2 * tensor)
    torch.testing.assert_close(tensors(doubled), [2 * tensor for tensor in tensors(inputs)], rtol=0, atol=0)
    assert map_tensors({"x": torch.ones(2), "flag": True}, torch.neg)["flag"] is True


# Preparation.


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_floating_inputs_take_the_precision_of_the_model_but_at_least_float32(parameters, expected, given):
    assert prepared(nn.Linear(3, 1).to(parameters), torch.ones(2, 3, dtype=given)).dtype == expected


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_indices_and_masks_keep_their_type(dtype):
    assert prepared(nn.Linear(3, 1), {"tokens": torch.ones(2, dtype=dtype)})["tokens"].dtype == dtype


def test_prepared_inputs_have_no_graph_and_the_given_ones_keep_theirs():
    inputs = torch.ones(2, 3, requires_grad=True)
    assert not prepared(nn.Linear(3, 1), inputs).requires_grad
    assert inputs.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_model_without_parameters_takes_inputs_as_they_are(dtype):
    assert prepared(nn.Tanh(), torch.ones(2, dtype=dtype)).dtype == dtype


# Outputs.


class Returns(nn.Module):
    """Returns what it is given to return, whatever the inputs."""

    def __init__(self, returned) -> None:
        super().__init__()
        self.returned = returned

    def forward(self, x):
        return self.returned


class HasLogits:
    def __init__(self, logits) -> None:
        self.logits = logits


ROWS = torch.arange(12.0).reshape(2, 6)


@pytest.mark.parametrize(
    ("returned", "output_fn"),
    [
        (ROWS, None),
        (ROWS.reshape(2, 2, 3), None),
        (ROWS.reshape(2, 3, 1, 2), None),
        ({"logits": ROWS, "loss": torch.tensor(1.0)}, None),
        (UserDict(logits=ROWS), None),
        (HasLogits(ROWS), None),
        ((ROWS, torch.ones(7)), lambda returned: returned[0]),
        ({"logits": -ROWS, "prediction": ROWS}, lambda returned: returned["prediction"]),
        (ROWS.T, lambda returned: returned.T),
    ],
)
def test_outputs_become_one_row_per_sample_the_last_dimension_fastest(returned, output_fn):
    assert torch.equal(output_matrix(Returns(returned), torch.ones(2, 4), output_fn), ROWS)


def test_one_number_per_sample_is_a_single_output():
    assert output_matrix(nn.Flatten(0), torch.ones(3, 1)).shape == (3, 1)


def test_sequences_are_positional_and_mappings_named_arguments():
    model, x = nn.Bilinear(2, 3, 1), (torch.randn(4, 2), torch.randn(4, 3))
    assert torch.equal(output_matrix(model, x), model(*x))
    assert torch.equal(output_matrix(model, {"input1": x[0], "input2": x[1]}), model(*x))
    assert torch.equal(output_matrix(model, {"input2": x[1], "input1": x[0]}), model(*x))


def test_a_mapping_without_logits_needs_an_output_function():
    inputs = {"x": torch.ones(2, 3), "scale": torch.tensor(2.0)}
    with pytest.raises(TypeError, match="tensor of outputs, but got dict; pass `output_fn`"):
        output_matrix(WithDict(), inputs)
    assert output_matrix(WithDict(), inputs, lambda returned: returned["prediction"]).shape == (2, 2)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (None, "NoneType"),
        ((ROWS, ROWS), "tuple"),
        ([ROWS], "list"),
        (np.ones((2, 3)), "ndarray"),
        (ROWS.long(), "dtype torch.int64"),
        (ROWS > 0, "dtype torch.bool"),
        (ROWS.to(torch.complex128), "dtype torch.complex128"),
        ({"logits": 3}, "int"),
    ],
)
def test_what_is_no_real_tensor_is_refused_with_what_it_is(returned, found):
    with pytest.raises(TypeError, match=f"real floating-point tensor of outputs, but got {found}; pass `output_fn`"):
        output_matrix(Returns(returned), torch.ones(2, 4))


@pytest.mark.parametrize("shape", [(), (3,), (6, 2), (1, 2, 6)])
def test_outputs_without_one_row_per_sample_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"one row of outputs for each of the 2 samples, but got shape \("):
        output_matrix(Returns(torch.ones(shape)), torch.ones(2, 4))
