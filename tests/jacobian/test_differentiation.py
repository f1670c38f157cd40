"""Products with Jacobians in closed form, for functions of every temper, and without a trace."""

import warnings

import pytest
import torch
from cases import SilentSecondDerivative
from torch.nn import functional as F  # noqa: N812 - its usual name

from lightning_bounds.jacobian.differentiation import jacobian_vector_products, vector_jacobian_products

DATA = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def parameters():
    return [torch.randn(shape, requires_grad=True) for shape in ((3, 2), (2,), ())]


class NoBatching(torch.autograd.Function):
    """A product whose backward pass reads a number out of the gradient, as no batch of gradients allows."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient if gradient.abs().sum().item() >= 0 else gradient


class WrongDerivative(torch.autograd.Function):
    """The derivative of its backward pass is another one than that of the forward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient**2 / 2 if gradient.requires_grad else gradient


FUNCTIONS = {
    "linear": lambda w, b, s: DATA @ w + b,
    "product": lambda w, b, s: s * torch.tanh(DATA @ w) * b,
    "three_dimensions": lambda w, b, s: (DATA @ w + b).reshape(2, 2, 2).sin(),
    "scalar": lambda w, b, s: (w.sum() * s).exp(),
    "unused": lambda w, b, s: DATA @ w,
    "used_twice": lambda w, b, s: (DATA @ w) * w.sum(),
    "in_place": lambda w, b, s: (DATA @ w).add_(b).mul_(s),
    "item": lambda w, b, s: (DATA @ w) * (b if b.sum().item() > -1e9 else s),
    "kink": lambda w, b, s: F.relu(DATA @ w + b),
    "no_batching": lambda w, b, s: NoBatching.apply(DATA @ w + b),
    "flat_in_part": lambda w, b, s: torch.sign(DATA @ w) + b,
    "indexing": lambda w, b, s: torch.stack([w[i % 3] * b for i in range(4)]),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return FUNCTIONS[request.param]


def dense(function, inputs):
    """The Jacobian by torch's own loop, all inputs side by side."""
    blocks = torch.autograd.functional.jacobian(function, tuple(p.detach() for p in inputs))
    rows = function(*inputs).numel()
    return torch.cat([block.reshape(rows, -1) for block in blocks], dim=1)


@pytest.mark.parametrize("count", [1, 5])
def test_products_from_the_left_equal_those_of_the_matrix(function, count):
    inputs = parameters()
    outputs = function(*inputs)
    vectors = torch.randn(count, *outputs.shape)
    products = vector_jacobian_products(outputs, inputs, vectors)
    assert products.shape == (count, 9)
    close(products, vectors.reshape(count, -1) @ dense(function, inputs))


@pytest.mark.parametrize("count", [1, 5])
def test_products_from_the_right_equal_those_of_the_matrix(function, count):
    inputs = parameters()
    outputs, vectors = function(*inputs), torch.randn(9, count)
    products = jacobian_vector_products(outputs, inputs, vectors)
    assert products.shape == (outputs.numel(), count)
    close(products, dense(function, inputs) @ vectors)


def test_both_products_are_adjoint(function):
    inputs = parameters()
    outputs = function(*inputs)
    u, v = torch.randn(outputs.shape), torch.randn(9)
    left = vector_jacobian_products(outputs, inputs, u.unsqueeze(0))[0] @ v
    right = u.flatten() @ jacobian_vector_products(outputs, inputs, v.unsqueeze(1))[:, 0]
    assert float(left) == pytest.approx(float(right), rel=1e-10)


def test_no_gradient_is_left_and_the_graph_can_be_used_again(function):
    inputs = parameters()
    outputs = function(*inputs)
    u, v = torch.randn(1, *outputs.shape), torch.randn(9, 1)
    first = vector_jacobian_products(outputs, inputs, u), jacobian_vector_products(outputs, inputs, v)
    second = vector_jacobian_products(outputs, inputs, u), jacobian_vector_products(outputs, inputs, v)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert [p.grad for p in inputs] == [None, None, None]
    assert not any(product.requires_grad for product in first)
    outputs.sum().backward()


def test_a_gradient_that_is_there_is_left_alone():
    inputs = parameters()
    outputs = FUNCTIONS["product"](*inputs)
    outputs.sum().backward(retain_graph=True)
    before = [p.grad.clone() for p in inputs]
    vector_jacobian_products(outputs, inputs, torch.randn(2, *outputs.shape))
    jacobian_vector_products(outputs, inputs, torch.randn(9, 2))
    torch.testing.assert_close([p.grad for p in inputs], before, rtol=0, atol=0)


def test_the_random_stream_does_not_move():
    inputs = parameters()
    outputs, vectors, state = FUNCTIONS["product"](*inputs), torch.randn(9, 2), torch.get_rng_state()
    jacobian_vector_products(outputs, inputs, vectors)
    assert torch.equal(torch.get_rng_state(), state)


def test_outputs_without_a_graph_have_a_jacobian_of_zeros():
    inputs, outputs = parameters(), torch.randn(4, 2)
    assert torch.equal(vector_jacobian_products(outputs, inputs, torch.randn(3, 4, 2)), torch.zeros(3, 9))
    assert torch.equal(jacobian_vector_products(outputs, inputs, torch.randn(9, 3)), torch.zeros(8, 3))


def test_parameters_in_another_graph_have_columns_of_zeros():
    inputs, other = parameters(), torch.randn(2, requires_grad=True)
    outputs = other**2
    assert torch.equal(vector_jacobian_products(outputs, inputs, torch.randn(3, 2)), torch.zeros(3, 9))
    assert torch.equal(jacobian_vector_products(outputs, inputs, torch.randn(9, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "operation", [SilentSecondDerivative.apply, WrongDerivative.apply, F.pdist], ids=["silent", "wrong", "refused"]
)
def test_an_operation_that_cannot_be_differentiated_twice_has_no_product_from_the_right(operation):
    inputs = parameters()
    outputs = operation(DATA @ inputs[0])
    assert jacobian_vector_products(outputs, inputs, torch.randn(9, 2)) is None


def test_an_operation_that_cannot_be_differentiated_twice_has_its_product_from_the_left():
    inputs = parameters()
    outputs, u = SilentSecondDerivative.apply(DATA @ inputs[0]), torch.randn(1, 4, 2)
    expected = (DATA.T @ (2 * (DATA @ inputs[0]) * u[0])).flatten().detach()
    close(vector_jacobian_products(outputs, inputs, u)[0], torch.cat([expected, torch.zeros(3)]))


def test_running_out_of_memory_is_no_reason_to_go_another_way():
    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise torch.OutOfMemoryError("deliberate")

    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(torch.OutOfMemoryError, match="deliberate"):
        jacobian_vector_products(Full.apply(weight), [weight], torch.ones(2, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_passed_on_to_those_who_check_it(value):
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    outputs = weight * torch.tensor([value, 1.0])
    assert not bool(vector_jacobian_products(outputs, [weight], torch.ones(1, 2)).isfinite().all())
    assert not bool(jacobian_vector_products(outputs, [weight], torch.ones(2, 1)).isfinite().all())


@pytest.mark.parametrize("types", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
def test_products_have_the_common_type_of_the_parameters(types):
    first, second = (torch.ones(2, dtype=dtype, requires_grad=True) for dtype in types)
    outputs = (first * 3).double() + second.double() * 2
    products = vector_jacobian_products(outputs, [first, second], torch.eye(2, dtype=torch.float32))
    assert products.dtype == torch.promote_types(*types)
    assert products.tolist() == [[3, 0, 2, 0], [0, 3, 0, 2]]


def test_products_from_the_right_keep_the_type_of_the_vectors():
    first, second = torch.ones(2, dtype=torch.float32, requires_grad=True), torch.ones(2, requires_grad=True)
    products = jacobian_vector_products(first.double() * 3 + second, [first, second], torch.ones(4, 1))
    assert products.dtype == torch.float64
    assert products.tolist() == [[4], [4]]


@pytest.fixture
def _batching_warnings():
    """Lets torch say where it cannot batch an operation, as it does or does not by its own choice."""
    torch._C._debug_only_display_vmap_fallback_warnings(True)
    yield
    torch._C._debug_only_display_vmap_fallback_warnings(False)


@pytest.mark.usefixtures("_batching_warnings")
def test_no_warning_about_batching_reaches_the_user():
    inputs = parameters()
    outputs = F.max_pool3d((DATA @ inputs[0]).reshape(1, 1, 2, 2, 2), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vector_jacobian_products(outputs, inputs, torch.randn(3, *outputs.shape))
        jacobian_vector_products(outputs, inputs, torch.randn(9, 3))
