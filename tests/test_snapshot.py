"""A snapshot agrees with its definitions by hand, computes each quantity once, and names the samples it refuses."""

import copy

import pytest
import torch
from cases import InPlaceBuffer, WithDict
from references import jacobian_by_loop, outputs_of
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from lightning_bounds import Probe, Snapshot
from lightning_bounds.jacobian.spectrum import gram_spectrum


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def classifier(outputs=3):
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs))


def snapshot(model=None, n=5, **arguments):
    targets = arguments.pop("targets", torch.arange(n) % 3)
    return Snapshot(model or classifier(), torch.randn(n, 2), targets, **arguments)


class Counted(nn.Module):
    """Counts its forward passes where no snapshot puts them back."""

    def __init__(self):
        super().__init__()
        self.inner, self.passes = classifier(), 0

    def forward(self, x):
        self.passes += 1
        return self.inner(x)


QUANTITIES = ["jacobian", "outputs", "labels", "residual", "margins", "gram", "spectrum"]


def test_outputs_labels_residual_and_margins_by_hand():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    seen = Snapshot(model, torch.tensor([[1.0, 1.0], [3.0, 0.5], [0.0, -1.0]]), torch.tensor([1, 1, 0]))
    close(seen.outputs, torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, -2.0]]))
    close(seen.labels, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]))
    close(seen.residual, torch.tensor([1.0, 1.0, 3.0, 0.0, -1.0, -2.0]))
    close(seen.margins, torch.tensor([1.0, -2.0, 2.0]))


def test_gram_and_spectrum_are_those_of_the_loop_over_outputs():
    seen = snapshot()
    jacobian = jacobian_by_loop(seen.model, seen.inputs)
    values = torch.linalg.svdvals(jacobian)
    close(seen.gram, jacobian @ jacobian.T)
    close(seen.spectrum.singular_values, values, 1e-6)
    close(
        seen.spectrum.left_vectors @ seen.spectrum.singular_values.square().diag() @ seen.spectrum.left_vectors.T,
        jacobian @ jacobian.T,
        1e-10,
    )


def test_residual_is_the_outputs_less_the_labels_sample_major():
    seen = snapshot()
    expected = [
        float(seen.outputs[i, c]) - (1.0 if c == int(seen.targets[i]) else 0.0) for i in range(5) for c in range(3)
    ]
    close(seen.residual, torch.tensor(expected))


@pytest.mark.parametrize("name", QUANTITIES)
def test_each_quantity_is_computed_once(name):
    model = Counted()
    seen = snapshot(model)
    first = getattr(seen, name)
    passes = model.passes
    assert passes > 0
    assert getattr(seen, name) is first
    assert model.passes == passes


def test_building_a_snapshot_runs_no_forward_pass():
    model = Counted()
    snapshot(model)
    assert model.passes == 0


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("outputs", {"jacobian", "outputs"}),
        ("labels", {"jacobian", "outputs", "labels"}),
        ("residual", {"jacobian", "outputs", "labels", "residual"}),
        ("margins", {"jacobian", "outputs", "margins"}),
        ("gram", {"jacobian", "gram"}),
        ("spectrum", {"jacobian", "gram", "spectrum"}),
    ],
)
def test_a_quantity_computes_only_what_it_needs(name, needed):
    seen = snapshot()
    getattr(seen, name)
    assert set(vars(seen)) & set(QUANTITIES) == needed


@pytest.mark.parametrize("later", ["labels", "residual", "margins"])
def test_outputs_once_known_cost_no_further_forward_pass(later):
    model = Counted()
    seen = snapshot(model)
    assert seen.outputs.shape == (5, 3)
    passes = model.passes
    getattr(seen, later)
    assert model.passes == passes


def test_what_was_read_stays_when_the_network_is_trained_on():
    seen = snapshot()
    outputs, gram = seen.outputs.clone(), seen.gram.clone()
    nn.init.zeros_(seen.model[0].weight)
    assert torch.equal(seen.outputs, outputs)
    assert torch.equal(seen.gram, gram)


def test_loss_gradient_of_cross_entropy_is_softmax_less_one_hot():
    seen = snapshot()
    gradient = seen.loss_gradient(lambda f, y: F.cross_entropy(f, y, reduction="sum"))
    close(gradient, (seen.outputs.softmax(dim=1) - F.one_hot(seen.targets, 3)).flatten())


@pytest.mark.parametrize("coding", [torch.tensor([1, 0, 0, 1, 1]), torch.tensor([1, -1, -1, 1, 1])], ids=["01", "±1"])
def test_loss_gradient_of_the_logistic_loss_is_minus_y_sigmoid_of_minus_y_f(coding):
    seen = snapshot(classifier(outputs=1), targets=coding)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    gradient = seen.loss_gradient(lambda f, y: F.softplus(-torch.where(y > 0, 1.0, -1.0) * f.squeeze(1)).sum())
    close(gradient, -signs * torch.sigmoid(-signs * seen.outputs[:, 0]))
    close(seen.margins, signs * seen.outputs[:, 0])


@pytest.mark.parametrize("targets", [torch.tensor([2, 0, 1, 1, 2]), torch.randn(5, 3)], ids=["classes", "real"])
def test_loss_gradient_of_least_squares_is_the_residual(targets):
    seen = snapshot(targets=targets)
    coded = F.one_hot(targets, 3).double() if targets.dim() == 1 else targets
    close(seen.loss_gradient(lambda f, _: (f - coded).square().sum() / 2), seen.residual)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_everything_is_found_where_gradients_are_off(context):
    model, inputs, targets = classifier(), torch.randn(5, 2), torch.arange(5) % 3
    expected = Snapshot(model, inputs, targets)
    with context():
        seen = Snapshot(model, inputs.clone(), targets.clone())
        gradient = seen.loss_gradient(lambda f, y: F.cross_entropy(f, y, reduction="sum"))
        close(seen.gram, expected.gram)
    close(gradient, expected.loss_gradient(lambda f, y: F.cross_entropy(f, y, reduction="sum")))


def test_loss_gradient_writes_no_gradient_and_keeps_the_outputs():
    seen = snapshot()
    outputs = seen.outputs.clone()
    seen.loss_gradient(lambda f, y: F.cross_entropy(f, y, reduction="sum"))
    assert torch.equal(seen.outputs, outputs)
    assert not seen.outputs.requires_grad
    assert all(parameter.grad is None for parameter in seen.model.parameters())


@pytest.mark.parametrize(
    ("rows", "named"),
    [([3], r"\[3\] of"), ([0, 4], r"\[0, 4\] of"), (list(range(12)), r"\[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\] and more of")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_name_the_samples(rows, named, value):
    inputs = torch.randn(14, 2)
    inputs[rows, 1] = value
    with pytest.raises(ValueError, match=rf"Expected finite inputs, but samples {named} the probe are NaN or infinite"):
        Snapshot(classifier(), inputs, torch.zeros(14, dtype=torch.long))


@pytest.mark.parametrize("as_inputs", [lambda x: (torch.ones(4), x), lambda x: {"y": torch.ones(4), "x": x}])
def test_samples_of_every_input_tensor_are_checked(as_inputs):
    with pytest.raises(ValueError, match=r"samples \[2\] of the probe"):
        Snapshot(nn.Identity(), as_inputs(torch.tensor([0.0, 1.0, float("nan"), 0.0])), torch.arange(4))


def test_inputs_without_samples_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="Expected finite inputs, but NaN or infinite; remove or repair them"):
        Snapshot(WithDict(), {"x": torch.randn(4, 3), "scale": torch.tensor(float("nan"))}, torch.zeros(4))


@pytest.mark.parametrize(("value", "bad"), [(float("nan"), [1, 3]), (float("inf"), [1, 3])])
@pytest.mark.parametrize("name", ["outputs", "labels", "residual", "margins"])
def test_outputs_that_are_not_finite_name_the_samples(name, value, bad):
    class Breaks(nn.Linear):
        def forward(self, x):
            return torch.where(x[:, :1] > 0, super().forward(x), value)

    inputs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [-2.0, 1.0]])
    with pytest.raises(FloatingPointError) as caught:
        getattr(Snapshot(Breaks(2, 3), inputs, torch.zeros(4, dtype=torch.long)), name)
    assert str(caught.value) == f"Expected finite outputs, but those of samples {bad} are NaN or infinite."


@pytest.mark.parametrize(
    ("targets", "got"),
    [(torch.zeros(4).long(), r"\(4,\)"), (torch.zeros(6, 3), r"\(6, 3\)"), (torch.tensor(1), r"\(\)")],
)
def test_another_number_of_targets_is_refused(targets, got):
    with pytest.raises(ValueError, match=f"Expected targets for each of 5 samples, but got shape {got}"):
        snapshot(targets=targets)


def test_classes_beyond_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"classes in 0\.\.2, as the network has 3 outputs, but sample 4 has label 3"):
        _ = snapshot(targets=torch.tensor([0, 1, 2, 0, 3])).residual


def test_real_targets_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"real targets with 3 numbers per sample.*but got shape \(5, 2\)"):
        _ = snapshot(targets=torch.randn(5, 2)).labels


@pytest.mark.parametrize(
    ("dtype", "seen_in", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-5),
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float16, torch.float32, 1e-5),
    ],
)
@pytest.mark.parametrize("inputs_dtype", [torch.float64, torch.float32])
def test_networks_of_every_precision_are_seen_in_float32_at_least(dtype, seen_in, tolerance, inputs_dtype):
    model, inputs, targets = classifier().to(dtype), torch.randn(5, 2).to(inputs_dtype), torch.arange(5) % 3
    exact = copy.deepcopy(model).double()
    jacobian = jacobian_by_loop(exact, inputs.double())
    seen = Snapshot(model, inputs, targets)
    assert (seen.outputs.dtype, seen.margins.dtype, seen.jacobian.dtype) == (seen_in, seen_in, seen_in)
    assert (seen.labels.dtype, seen.residual.dtype, seen.gram.dtype) == (torch.float64,) * 3
    tolerance = max(tolerance, 1e-6 if inputs_dtype == torch.float32 else 0.0)
    close(seen.outputs.double(), exact(inputs.double()).detach(), tolerance)
    close(seen.residual, (exact(inputs.double()).detach() - F.one_hot(targets, 3)).flatten(), tolerance)
    close(seen.gram, jacobian @ jacobian.T, 10 * tolerance)
    assert all(parameter.dtype == dtype for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "expected"), [("float64", torch.float64), ("float32", torch.float32)])
def test_the_probe_chooses_the_precision_of_the_gram_matrix(dtype, expected):
    seen = snapshot(probe=Probe(dtype=dtype))
    assert (seen.gram.dtype, seen.spectrum.singular_values.dtype) == (expected, expected)


def test_the_noise_floor_follows_the_precision_of_the_network():
    model, inputs, targets = classifier(), torch.randn(5, 2), torch.arange(5) % 3
    exact, single = Snapshot(model, inputs, targets), Snapshot(copy.deepcopy(model).float(), inputs, targets)
    assert exact.spectrum.noise_floor == gram_spectrum(exact.gram, row_precision=2.0**-52).noise_floor
    assert single.spectrum.noise_floor == gram_spectrum(single.gram, row_precision=2.0**-23).noise_floor
    assert single.spectrum.noise_floor > 10 * exact.spectrum.noise_floor


def test_the_probe_chooses_the_layers():
    seen = snapshot(probe=Probe(layers=["2.weight"]))
    assert seen.jacobian.names == ["2.weight"]
    hidden = torch.tanh(seen.model[0](seen.inputs)).detach()
    close(seen.gram, torch.kron(hidden @ hidden.T, torch.eye(3)))


def test_the_probe_limits_the_memory():
    with pytest.raises(MemoryError, match="within 1,000 bytes"):
        _ = snapshot(probe=Probe(memory_budget="1KB")).gram


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
def test_the_probe_chooses_the_mode_whatever_mode_the_network_is_in(mode, training):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train(training)
    inputs, before = torch.randn(6, 2), copy.deepcopy(model.state_dict())
    hidden = model[0](inputs).detach()
    by_itself = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = by_itself if mode == "train" else hidden / (1 + 1e-5) ** 0.5
    seen = Snapshot(model, inputs, torch.arange(6) % 3, probe=Probe(mode=mode))
    close(seen.outputs, expected)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_inputs_by_name_reach_the_network():
    inputs = {"x": torch.randn(4, 3), "scale": torch.tensor(2.0)}
    seen = Snapshot(WithDict(), inputs, torch.tensor([0, 1, 1, 0]), output_fn=lambda returned: returned["prediction"])
    close(seen.outputs, 2 * seen.model.linear(inputs["x"]).detach())
    jacobian = jacobian_by_loop(seen.model, inputs, seen.output_fn)
    close(seen.gram, jacobian @ jacobian.T)


def test_inputs_in_sequence_reach_the_network():
    inputs = (torch.randn(4, 3), torch.randn(4, 2))
    seen = Snapshot(nn.Bilinear(3, 2, 2), inputs, torch.tensor([0, 1, 1, 0]))
    close(seen.outputs, seen.model(*inputs).detach())


@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
@pytest.mark.parametrize("targets_shape", [(5,), (5, 1)])
def test_a_single_output_may_come_with_or_without_its_dimension(shape, targets_shape):
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    model = classifier(outputs=1)
    whole = nn.Sequential(model, nn.Flatten(0)) if shape == "(n,)" else model
    seen = snapshot(whole, targets=((signs + 1) / 2).long().reshape(targets_shape))
    outputs = outputs_of(model, seen.inputs).detach()
    close(seen.outputs, outputs)
    close(seen.labels, signs)
    close(seen.residual, outputs[:, 0] - signs)
    close(seen.margins, signs * outputs[:, 0])
    jacobian = jacobian_by_loop(model, seen.inputs)
    close(seen.gram, jacobian @ jacobian.T)


def test_a_network_that_writes_buffers_is_left_as_it_was():
    model = InPlaceBuffer()
    seen = Snapshot(model, torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    _ = seen.residual, seen.spectrum
    assert float(model.calls) == 0
    assert float(model.mean.abs().sum()) == 0


def test_samples_permuted_permute_the_rows():
    model, inputs, targets, order = classifier(), torch.randn(5, 2), torch.arange(5) % 3, torch.tensor([3, 0, 4, 1, 2])
    seen, permuted = Snapshot(model, inputs, targets), Snapshot(model, inputs[order], targets[order])
    rows = torch.arange(15).reshape(5, 3)[order].flatten()
    close(permuted.residual, seen.residual[rows])
    close(permuted.margins, seen.margins[order])
    close(permuted.gram, seen.gram[rows][:, rows])
    close(permuted.spectrum.singular_values, seen.spectrum.singular_values, 1e-6)
