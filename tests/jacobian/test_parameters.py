"""Which parameters have columns: the trainable ones, each once, by patterns that must match something."""

import pytest
import torch
from cases import TiedEmbedding
from torch import nn

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.parameters import selected_parameters


class Encoder(nn.Module):
    """Names of every kind: nested, with digits, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(11)])
        self.readout = nn.Linear(2, 1)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.scale * self.readout(x)


def block(index):
    return [f"blocks.{index}.{part}" for part in ("0.weight", "0.bias", "1.weight", "1.bias")]


def test_all_trainable_parameters_are_selected_in_their_order():
    model = Encoder()
    selected = selected_parameters(model)
    assert [id(p) for p in selected.values()] == [id(p) for p in model.parameters()]
    assert list(selected) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (["readout"], ["readout.weight", "readout.bias"]),
        (["readout.bias"], ["readout.bias"]),
        (["scale"], ["scale"]),
        (["blocks.1"], block(1)),  # not blocks.10, whose name begins alike
        (["blocks.1?"], block(10)),
        (["blocks.[02]"], block(0) + block(2)),
        (["blocks.3.*.bias"], ["blocks.3.0.bias", "blocks.3.1.bias"]),
        (["blocks.*.1.bias"], [f"blocks.{index}.1.bias" for index in range(11)]),
        (["*.0.0.weight"], ["blocks.0.0.weight"]),
        (["readout.bias", "scale"], ["scale", "readout.bias"]),  # in the order of the model
        (["readout", "readout.*"], ["readout.weight", "readout.bias"]),  # once
        (("scale",), ["scale"]),
    ],
)
def test_a_pattern_selects_what_it_names_and_all_inside(layers, names):
    assert list(selected_parameters(Encoder(), layers)) == names


def test_a_star_selects_everything():
    model = Encoder()
    assert list(selected_parameters(model, ["*"])) == list(selected_parameters(model))


def test_patterns_are_case_sensitive():
    with pytest.raises(ValueError, match="'Readout' matches none"):
        selected_parameters(Encoder(), ["Readout"])


def test_frozen_parameters_are_left_out():
    model = Encoder()
    model.blocks.requires_grad_(False)
    assert list(selected_parameters(model)) == ["scale", "readout.weight", "readout.bias"]
    assert list(selected_parameters(model, ["blocks", "scale"])) == ["scale"]


def test_tied_parameters_appear_once_under_their_first_name():
    assert list(selected_parameters(TiedEmbedding())) == ["embedding.weight", "mix.weight", "mix.bias"]


@pytest.mark.parametrize("layers", [["readout"], ["readout.weight"], ["embedding"], ["embedding", "readout"]])
def test_tied_parameters_answer_to_each_of_their_names(layers):
    assert list(selected_parameters(TiedEmbedding(), layers)) == ["embedding.weight"]


def test_selecting_changes_nothing():
    model = Encoder()
    flags = [p.requires_grad for p in model.parameters()]
    selected_parameters(model, ["scale"])
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize("layers", [None, ["0"], ["0.weight", "0.bias"], ["[01]"]])
@pytest.mark.parametrize("inner", [False, True], ids=["whole_model_compiled", "one_layer_compiled"])
def test_the_wrapper_of_a_compiled_module_has_no_part_in_names(layers, inner):
    layer = nn.Linear(2, 2)
    if inner:
        model = nn.Sequential(torch.compile(layer, backend="eager"))
    else:
        model = torch.compile(nn.Sequential(layer), backend="eager")
    assert list(selected_parameters(model, layers)) == ["0.weight", "0.bias"]


def test_names_that_only_end_like_the_wrapper_are_kept():
    model = nn.ModuleDict({"my_orig_mod": nn.Linear(2, 2)})
    assert list(selected_parameters(model, ["my_orig_mod"])) == ["my_orig_mod.weight", "my_orig_mod.bias"]


@pytest.mark.parametrize(
    ("layers", "nearest"),
    [(["readuot"], r"\['readout'"), (["blocks.0.weight"], r"\['blocks\.\d+\.0\.weight'"), (["scale", "none"], r"\[")],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(layers, nearest):
    with pytest.raises(ValueError, match=rf"'{layers[-1]}' matches none; the nearest are {nearest}"):
        selected_parameters(Encoder(), layers)


@pytest.mark.parametrize("number", [1, 11])
def test_at_most_ten_names_are_shown(number):
    model = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(number)])
    with pytest.raises(ValueError, match="matches none") as caught:
        selected_parameters(model, ["zzz"])
    assert str(caught.value).count("'") == 2 * (1 + min(2 * number, 10))


def test_one_string_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"sequence of patterns, but got the string 'readout'; write \['readout'\]"):
        selected_parameters(Encoder(), "readout")


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (nn.Tanh(), None, "the model, but all 0 are frozen or there are none"),
        (nn.Linear(2, 2).requires_grad_(False), None, "the model, but all 2 are frozen"),
        (nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)), ["0"], r"layers \['0'\], but all 2"),
        (nn.Linear(2, 2), [], r"layers \[\], but all 0"),
    ],
)
def test_nothing_trainable_is_refused(model, layers, message):
    with pytest.raises(ValueError, match=f"trainable parameter in {message}.*set `requires_grad`"):
        selected_parameters(model, layers)


def test_the_columns_of_a_jacobian_are_the_selected_parameters():
    model = Encoder()
    jacobian = JacobianOperator(model, torch.randn(3, 2), layers=["readout", "scale"])
    sizes = [parameter.numel() for parameter in selected_parameters(model, ["readout", "scale"]).values()]
    assert (jacobian.names, jacobian.shape) == (["scale", "readout.weight", "readout.bias"], (3, sum(sizes)))
