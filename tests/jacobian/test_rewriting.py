"""Operations with a parameter that are said as layers: the same numbers, by the rules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import jacobian_by_loop
from torch import nn
from torch.nn import functional

from lightning_bounds import JacobianOperator
from lightning_bounds.jacobian.rewriting import rewritten


class Operation(nn.Module):
    """A function of data, that has passed a layer or not, and of a parameter."""

    def __init__(self, function, *shape, layer=True):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.rand(shape) + 0.5)
        self.layer = nn.Linear(4, 4) if layer else None
        self.function = function

    def forward(self, x):
        hidden = x if self.layer is None else torch.tanh(self.layer(x))
        return self.function(hidden, self.weight)


def in_place(operation):
    def function(x, weight):
        x = x.clone()
        view = x[..., :]
        getattr(view, operation)(weight)
        return x  # the view's data

    return function


def summed_later(x, weight):
    x = 1 * x
    x += weight
    return torch.tanh(x) * x


def tokens(x):
    return (x.detach().abs() * 3).long() % 7 if x.dim() == 2 else tokens(x.sum(-1))


attention = functional.scaled_dot_product_attention
BIAS = torch.arange(3.0, dtype=torch.float64)
# Data has shape (n, 5, 4).
OPERATIONS = {
    "matrix from the right": (lambda x, w: x @ w, (4, 3)),
    "matrix from the left": (lambda x, w: w @ x.mT, (3, 4)),
    "matrix from the left of places": (lambda x, w: w @ x, (3, 5)),
    "matrices from the right": (lambda x, w: x[:, :, None] @ w, (5, 4, 3)),
    "matrices from the left": (lambda x, w: w @ x[..., None], (5, 3, 4)),
    "matrices for each of some": (lambda x, w: x[:, None] @ w, (3, 4, 2)),
    "one of some matrices": (lambda x, w: x @ w, (1, 4, 2)),
    "vector from the right": (lambda x, w: x @ w, (4,)),
    "vector from the left": (lambda x, w: w @ x, (5,)),
    "bmm": (lambda x, w: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), (5, 4, 3)),
    "bmm from the left": (lambda x, w: torch.bmm(w, x.permute(1, 2, 0)).permute(2, 0, 1), (5, 3, 4)),
    "baddbmm": (lambda x, w: torch.baddbmm(w[:, 4:], x.transpose(0, 1), w[:, :4]).transpose(0, 1), (5, 5, 3)),
    "baddbmm to a matrix": (
        lambda x, w: torch.baddbmm(w[0, 4], x.transpose(0, 1), w[:, :4]).transpose(0, 1),
        (5, 5, 3),
    ),
    "transposed whole": (lambda x, w: torch.mm(w, x[:, 0].T).T, (3, 4)),
    "mm": (lambda x, w: torch.mm(x[:, 0], w), (4, 3)),
    "addmm": (lambda x, w: torch.addmm(w[4], x[:, 0], w[:4]), (5, 3)),
    "addmm over places": (lambda x, w: torch.addmm(w[4], x.reshape(-1, 4), w[:4]).view(len(x), -1), (5, 3)),
    "addmm to a constant": (lambda x, w: torch.addmm(BIAS, x[:, 0], w, beta=1, alpha=1), (4, 3)),
    "addmm to data": (lambda x, w: torch.addmm(x[:, 1, :3], x[:, 0], w), (4, 3)),
    "addmm to one number": (lambda x, w: torch.addmm(w[0, :1], x[:, 0], w[1:]), (5, 3)),
    "addmm from the left": (lambda x, w: torch.addmm(w[:, :1], w[:, 1:], x[:, 0].T).T, (3, 5)),
    "addmm with a factor": (lambda x, w: torch.addmm(w[4], x[:, 0], w[:4], alpha=2), (5, 3)),
    "einsum": (lambda x, w: torch.einsum("nld,do->nlo", x, w), (4, 3)),
    "einsum with the weight first": (lambda x, w: torch.einsum("od,nld->oln", w, x).permute(2, 0, 1), (3, 4)),
    "einsum to heads": (lambda x, w: torch.einsum("nld,hdk->nhlk", x, w), (2, 4, 3)),
    "einsum over two": (lambda x, w: torch.einsum("nld,lod->no", x, w), (5, 3, 4)),
    "einsum to a number": (lambda x, w: torch.einsum("nld,dl->n", x, w)[:, None], (4, 5)),
    "einsum with dots": (lambda x, w: torch.einsum("...d, od -> ...o", x, w), (3, 4)),
    "einsum with a shared index": (lambda x, w: torch.einsum("nld,ldo->nlo", x, w), (5, 4, 2)),
    "einsum with a shared index alone": (lambda x, w: torch.einsum("nld,ld->ln", x, w).T, (5, 4)),
    "einsum to one for each": (lambda x, w: torch.einsum("nld,l->nld", x, w), (5,)),
    "einsum with more of the weight": (lambda x, w: torch.einsum("nld,do->nl", x, w), (4, 3)),
    "einsum of all heads": (lambda x, w: torch.einsum("nld,hldk->nhlk", x, w), (2, 5, 4, 3)),
    "einsum of one that is repeated": (lambda x, w: torch.einsum("nld,ldo->nlo", x, w), (1, 4, 2)),
    "einsum with a diagonal": (lambda x, w: torch.einsum("nld,oo->no", x, w), (3, 3)),
    "einsum without arrow": (lambda x, w: torch.einsum("abd,do", x, w), (4, 3)),
    "einsum of a list": (lambda x, w: torch.einsum("nld,do->nlo", [x, w]), (4, 3)),
    "einsum of an outer product": (lambda x, w: torch.einsum("nld,o->no", x, w), (3,)),
    "addcmul": (lambda x, w: torch.addcmul(w[0], w[1], x), (2, 4)),
    "addcmul, data first": (lambda x, w: torch.addcmul(x.tanh(), x, w), (4,)),
    "addcmul with a factor": (lambda x, w: torch.addcmul(w[0], w[1], x, value=2), (2, 4)),
    "bilinear": (lambda x, w: functional.bilinear(x, x.tanh(), w), (3, 4, 4)),
    "bilinear with a bias": (lambda x, w: functional.bilinear(x[:, 0], x[:, 1], w[..., :4], w[:, 0, 4]), (3, 4, 5)),
    "bilinear of a weight": (lambda x, w: functional.bilinear(w[:, 0].expand(len(x), 5, 4), x, w[:, :4]), (1, 5, 4)),
    "sum of embeddings": (lambda x, w: functional.embedding_bag(tokens(x), w, mode="sum"), (7, 3)),
    "mean of embeddings": (lambda x, w: functional.embedding_bag(tokens(x), w), (7, 3)),
    "weighted sum of embeddings": (
        lambda x, w: functional.embedding_bag(tokens(x), w, mode="sum", per_sample_weights=x[..., 0]),
        (7, 3),
    ),
    "largest of embeddings": (lambda x, w: functional.embedding_bag(tokens(x), w, mode="max"), (7, 3)),
    "padded embeddings": (lambda x, w: functional.embedding_bag(tokens(x), w, padding_idx=1), (7, 3)),
    "attention with a bias": (lambda x, w: attention(x, x, x.tanh(), attn_mask=w), (5, 5)),
    "scaled attention with a bias": (lambda x, w: attention(x, x[:, :2], x[:, :2], w, scale=0.3), (2,)),
    "sum of both repeated": (lambda x, w: x[:, :1] + w, (3, 4)),
    "product of both repeated": (lambda x, w: w * x[..., None], (4, 2)),
    "difference of both repeated": (lambda x, w: w - x[:, :, :1], (1, 1, 3)),
    "difference": (lambda x, w: x - w, (4,)),
    "difference from a weight": (lambda x, w: w - x, (5, 1)),
    "quotient": (lambda x, w: x / w, (4,)),
    "quotient of a weight": (lambda x, w: w / (x + 3), (5, 4)),
    "true quotient": (lambda x, w: torch.true_divide(x, w), (1,)),
    "quotient by a number": (lambda x, w: x / w, ()),
    "rounded quotient": (lambda x, w: torch.div(x * w, 2, rounding_mode="floor") + x * w, (4,)),
    "sum in place": (in_place("add_"), (4,)),
    "difference in place": (in_place("sub_"), (5, 1)),
    "product in place": (in_place("mul_"), (4,)),
    "quotient in place": (in_place("div_"), (4,)),
    "sum in place, used again": (summed_later, (4,)),
    "weight in place": (lambda x, w: x * (1 * w).add_(w), (4,)),
    "repeated": (lambda x, w: torch.cat([w.repeat(len(x), 1, 1), x], 1), (1, 2, 4)),
    "repeated by a size": (lambda x, w: torch.cat([w.repeat((len(x), 1, 1)), x], 1), (1, 2, 4)),
    "repeated and overwritten": (lambda x, w: w.repeat(len(x), 1, 1).mul_(2) + x[:, :2], (1, 2, 4)),
    "repeated, some rows": (lambda x, w: torch.cat([w.repeat(len(x), 1).view(-1, 2, 4), x], 1), (2, 4)),
    "repeated in the middle": (lambda x, w: torch.cat([w.repeat(1, len(x), 1).permute(1, 2, 0), x.mT], 2), (3, 1, 4)),
    "expanded in the middle": (lambda x, w: w.expand(3, len(x), 4).transpose(0, 1) * x[:, :3], (3, 1, 4)),
    "repeated along a row": (lambda x, w: x * w.repeat(2), (2,)),
}
# What is left to automatic differentiation: the parameter itself, or nothing at all.
LEFT = {"einsum with a diagonal", "einsum without arrow", "einsum of a list", "addmm with a factor"}
LEFT |= {"addcmul with a factor", "largest of embeddings", "padded embeddings"}


@pytest.mark.parametrize("layer", [True, False], ids=["hidden", "inputs"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_jacobian_is_that_of_the_operation_and_goes_by_rules(name, layer):
    function, shape = OPERATIONS[name]
    model = Operation(lambda x, w: torch.tanh(function(x, w)).flatten(1), *shape, layer=layer)
    inputs = torch.randn(4, 5, 4)
    before = model(inputs)
    operator = JacobianOperator(model, inputs)
    expected = jacobian_by_loop(model, inputs)
    torch.testing.assert_close(operator.rows(0, 4), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.rows(3, 4), expected[-operator.num_outputs :], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.outputs(), before, rtol=0, atol=0)
    assert operator.layering.plain == (["weight"] if name in LEFT else []), operator.layering.reason


@settings(deadline=None, max_examples=80)
@given(st.permutations("abcd"), st.integers(1, 3), st.integers(0, 2), st.data())
def test_contractions_of_every_order(letters, summed, added, data):
    sizes = dict(zip("abcdxy", (2, 3, 4, 5, 2, 3), strict=True))
    inner = data.draw(st.permutations([*letters[:summed], *"xy"[:added]]))
    outer = data.draw(st.permutations([*letters[summed:], *"xy"[:added]]))
    order = data.draw(st.permutations(letters))
    x, weight = torch.randn([sizes[a] for a in order]), torch.randn([sizes[a] for a in inner])
    equation = f"{''.join(order)},{''.join(inner)}->{''.join(outer)}"
    found = rewritten(torch.einsum, (equation, x, weight), {}, lambda tensor: tensor is weight)
    torch.testing.assert_close(found, torch.einsum(equation, x, weight))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["kept", "summed", "both", "new", "of data", "of weight"]), max_size=7), st.data())
def test_contractions_of_every_kind(roles, data):
    """Indices of the data alone, of both factors, of the weight alone, in the result or not."""
    letters = dict(zip("abcdefg", roles, strict=False))

    def order(*wanted):
        return "".join(data.draw(st.permutations([a for a, role in letters.items() if role in wanted])))

    left, right = order("kept", "summed", "both", "of data"), order("new", "summed", "both", "of weight")
    outer = order("kept", "both", "new")
    sizes = {a: data.draw(st.integers(1, 3)) for a in letters}
    shapes = [[sizes[a] for a in term] for term in (left, right)]
    for a in set(left) & set(right) & set(outer):
        if data.draw(st.booleans()):  # repeated along it
            shapes[0][left.index(a)] = 1
    x, weight = (torch.randn(shape) for shape in shapes)
    equation = f"{left},{right}->{outer}"
    found = rewritten(torch.einsum, (equation, x, weight), {}, lambda tensor: tensor is weight)
    torch.testing.assert_close(found, torch.einsum(equation, x, weight))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 2), max_size=2), st.lists(st.integers(1, 2), max_size=2), st.booleans(), st.data())
def test_products_of_all_dimensions(first, second, weight_first, data):
    shapes = [[*first, 3, 4], [*second, 4, 2]]
    if data.draw(st.booleans()):
        shapes[0] = [4]
    elif data.draw(st.booleans()):
        shapes[1] = [4]
    sides = [torch.randn(shape) for shape in shapes]
    try:
        expected = torch.matmul(*sides)
    except RuntimeError:  # sizes that cannot be repeated
        return
    weight = sides[0 if weight_first else 1]
    found = rewritten(torch.matmul, tuple(sides), {}, lambda tensor: tensor is weight)
    torch.testing.assert_close(found, expected)


def test_what_no_weight_is_part_of_is_left_alone():
    x, weight = torch.randn(3, 3), torch.randn(3, 3)
    calls = [(torch.matmul, (x, x)), (torch.sub, (weight, weight)), (torch.sub, (weight, 1)), (torch.exp, (weight,))]
    calls += [(torch.einsum, ("ij,jk,kl->il", x, weight, x)), (torch.Tensor.repeat, (x[:1], 2, 1))]
    calls += [(torch.matmul, (x, torch.randn(2, 3, 3))), (torch.Tensor.sub_, (weight, x)), (torch.add, (x, weight))]
    for function, arguments in calls:
        assert rewritten(function, arguments, {}, lambda tensor: tensor is weight) is None
    assert rewritten(torch.sub, (x, weight), {"alpha": 2}, lambda tensor: tensor is weight) is None


class Positions(nn.Module):
    """What does not depend on the samples, made by layers: positions, a small network of them, a projected weight."""

    def __init__(self, in_place=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 4), nn.Embedding(6, 4)
        self.mixed = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.LayerNorm(3), nn.Linear(3, 4))
        self.core = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("angles", torch.randn(5, 2))
        self.register_buffer("projection", torch.randn(4, 4))
        self.in_place = in_place

    def forward(self, tokens):
        positions = self.positions(torch.arange(5)) + self.mixed(self.angles)
        x = self.tokens(tokens)
        if self.in_place:
            x += positions
        else:
            x = x + positions
        return (torch.tanh(x).sum(1) @ (self.projection @ self.core)).tanh()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_layers_that_see_no_samples_are_parts_of_a_weight(in_place, n):
    model, tokens = Positions(in_place), torch.randint(0, 7, (n, 5))
    expected, operator = jacobian_by_loop(model, tokens), JacobianOperator(model, tokens)
    torch.testing.assert_close(operator.gram(), expected @ expected.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(operator.rows(0, n), expected, rtol=1e-9, atol=1e-9)
    assert operator.layering.plain == [], operator.layering.reason
    # Positions, three layers of angles, and the projection.
    assert len(operator.layering.shared) == 5
