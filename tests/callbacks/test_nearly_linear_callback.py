"""What the callback of nearly-linear networks logs, refuses and reports, on small trainings."""

import copy
import functools
import math
import re
import warnings

import pytest
import torch
from small_training import measured_steps, quiet_trainer, statuses
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from training_trace import Trace, differences

from lightning_bounds import Schedule
from lightning_bounds.callbacks.nearly_linear import NearlyLinear
from lightning_bounds.callbacks.nearly_linear.conditions import leaky_layers
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised
from lightning_bounds.models.nearly_linear import LeakyNetwork
from lightning_bounds.report import MemoryLogger
from lightning_bounds.theory import nearly_linear

EACH_STEP = Schedule(every_n_steps=1)
LR, EPSILON, BETA = 0.1, 0.1, 0.3


def samples(n=60, features=5, seed=0, whitening=None):
    """Whitened inputs and the signs of a noisy linear function."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, features, generator=generator, dtype=torch.float64) * torch.arange(1.0, features + 1)
    labels = (raw[:, 0] + 0.5 * raw[:, 1] + torch.randn(n, generator=generator, dtype=torch.float64) > 0).long()
    whitening = whitening or nearly_linear.whiten(raw)
    return whitening.apply(raw), labels, whitening


def loader(inputs, labels, batch_size=None, **options):
    return DataLoader(TensorDataset(inputs, labels), batch_size or len(labels), **options)


def network(**changes):
    return LeakyNetwork(**{"in_features": 5, "width": 6, "epsilon": EPSILON, "beta": BETA, "seed": 0, **changes})


def module(net=None, loss="least_squares", scheduler=None, **sgd):
    optimizer = functools.partial(torch.optim.SGD, **{"lr": LR, **sgd})
    return Supervised(network() if net is None else net, loss, optimizer=optimizer, scheduler=scheduler)


def fit(callback, trained=None, train=None, val=True, ckpt_path=None, **options):
    inputs, labels, whitening = samples()
    trainer = quiet_trainer([callback], **{"max_epochs": 6, "num_sanity_val_steps": 0, **options})
    unseen = loader(*samples(30, seed=1, whitening=whitening)[:2]) if val else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(resuming from a checkpoint|callbacks used to create).*")
        train = loader(inputs, labels) if train is None else train
        trainer.fit(trained or module(), train, unseen, ckpt_path=ckpt_path)
    return trainer


def at(callback, step):
    """Everything that was logged about a step, by the names below the topic."""
    (row,) = [row for row in callback.history if row["step"] == step]
    return {name.removeprefix("nearly_linear/"): value for name, value in row.items()}


@functools.cache
def run():
    """Six steps of gradient descent with the proxies, measured after each."""
    callback, logger = NearlyLinear(proxies=True, schedule=EACH_STEP), MemoryLogger()
    trained = module()
    trainer = fit(callback, trained, logger=logger)
    return callback, trained.network, trainer, logger


def descended(net, steps, lr, epsilon):
    """Weights after gradient descent by hand, with the gradient written out for two layers."""
    inputs, labels, _ = samples()
    signs = 2.0 * labels - 1
    first, second = (layer.weight.detach().clone() for layer in net.linear_layers)
    for _ in range(steps):
        hidden = inputs @ first.T
        slopes = torch.where(hidden < 0, 1 - epsilon, 1.0)
        residual = (hidden * slopes) @ second[0] - signs
        grad_second = residual @ (hidden * slopes) / 60
        grad_first = (residual[:, None] * second * slopes).T @ inputs / 60
        first, second = first - lr * grad_first, second - lr * grad_second
    return first, second


def predicted(weights, inputs, epsilon):
    hidden = inputs @ weights[0].T
    return torch.where(hidden < 0, (1 - epsilon) * hidden, hidden) @ weights[1][0]


def constants():
    inputs, labels, _ = samples()
    first, second = (layer.weight.detach() for layer in network().linear_layers)
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in (first, second)]
    strength = float((inputs.T @ (2.0 * labels - 1) / 60).norm())
    return {
        "strength": strength,
        "rho": float(first.norm()) / norms[0],
        "beta": max(norms),
        "epsilon": EPSILON,
        "depth": 2,
    }


STEPS = pytest.mark.parametrize("step", [0, 3, 6])


@STEPS
@pytest.mark.parametrize("ratio", [1, 10, 100])
@pytest.mark.parametrize(
    ("name", "variant"), [("generalization_bound", "corrected_tight"), ("theorem_bound", "theorem")]
)
def test_bounds_are_those_of_the_theory_at_the_measured_margin_risk(step, ratio, name, variant):
    inputs, labels, _ = samples()
    weights, margin = descended(network(), step, LR, EPSILON), constants()["beta"] ** 2 / ratio
    risk = float((predicted(weights, inputs, EPSILON) * (2 * labels - 1) < margin).double().mean())
    visit = step + 1
    bound = nearly_linear.apriori_bound(
        **constants(),
        dim=5,
        samples=60,
        time=LR * step,
        margin=margin,
        order=2,
        delta=0.01 / (visit * (visit + 1) * 3),
        precision_bits=64,
        train_margin_risk=risk,
        variant=variant,
    )
    logged = at(run()[0], step)
    assert logged[f"margin_{ratio}/{name}"] == pytest.approx(bound.value, rel=1e-9)
    assert logged[f"margin_{ratio}/train_margin_risk"] == risk


@STEPS
def test_the_bound_is_the_smallest_over_the_margins_and_the_sum_of_its_terms(step):
    logged = at(run()[0], step)
    assert logged["generalization_bound"] == min(logged[f"margin_{q}/generalization_bound"] for q in (1, 10, 100))
    terms = [logged[f"generalization_bound/{term}"] for term in ("train_margin_risk", "counting", "deviation")]
    assert logged["generalization_bound"] == pytest.approx(sum(terms), rel=1e-12)
    assert logged["generalization_bound/vacuous"] == float(logged["generalization_bound"] >= 1)


@pytest.mark.parametrize("visit", [1, 2, 7])
def test_the_confidence_is_shared_by_all_measurements_and_margins(visit):
    logged = at(run()[0], visit - 1)["generalization_bound/counting"]
    share = 0.01 / (visit * (visit + 1) * 3)
    assert logged == pytest.approx(math.sqrt((2 * 64 * 5 * math.log(2) - math.log(share)) / 120), rel=1e-9)


def test_the_shares_of_endless_measurements_add_up_to_the_confidence():
    assert sum(1 / (k * (k + 1)) for k in range(1, 10**5)) == pytest.approx(1, rel=2e-5)


@STEPS
def test_norms_losses_and_errors_are_those_of_descent_by_hand(step):
    inputs, labels, whitening = samples()
    signs, weights = 2.0 * labels - 1, descended(network(), step, LR, EPSILON)
    outputs, logged = predicted(weights, inputs, EPSILON), at(run()[0], step)
    unseen, unseen_labels, _ = samples(30, seed=1, whitening=whitening)
    wrong = predicted(weights, unseen, EPSILON) * (2 * unseen_labels - 1) <= 0
    expected = {
        "time": LR * step,
        "loss": float((outputs - signs).square().mean() / 2),
        "projected_loss": float(((signs - outputs) @ inputs).square().sum() / 120),
        "train/error": float((outputs * signs <= 0).double().mean()),
        "val/error": float(wrong.double().mean()),
        "val/input_energy": float(unseen.square().sum(dim=1).mean() / 5),
        "weight_norm": max(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights),
        "first_layer_norm": float(weights[0].norm()),
        "layers/network_layers_0_weight/spectral_norm": float(torch.linalg.matrix_norm(weights[0], 2)),
        "layers/network_layers_2_weight/spectral_norm": float(torch.linalg.matrix_norm(weights[1], 2)),
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@STEPS
def test_trained_norms_stay_below_those_of_the_theorem(step):
    logged = at(run()[0], step)
    assert logged["weight_norm"] <= logged["weight_norm_bound"]
    assert logged["first_layer_norm"] <= logged["first_layer_norm_bound"] * (1 + 1e-12)
    time = LR * step
    assert logged["weight_norm_bound"] == pytest.approx(nearly_linear.weight_norm_bound(time, **constants()))
    assert logged["derivative_norm_bound"] == pytest.approx(nearly_linear.derivative_norm_bound(time, **constants()))


def proxies_by_hand(step, points):
    """The three proxies at some points, by the normal equations in the place of the pseudo-inverse."""
    inputs, _, _ = samples()
    linear, real = (descended(network(), step, LR, slope) for slope in (0.0, EPSILON))
    left = predicted(real, inputs, EPSILON) - predicted(linear, inputs, EPSILON)
    line = torch.linalg.lstsq(inputs, left.unsqueeze(1)).solution.squeeze(1)
    first = predicted(linear, points, EPSILON)
    return {"linear": predicted(linear, points, 0.0), "order_1": first, "order_2": first + points @ line}


@STEPS
@pytest.mark.parametrize("split", ["train", "val"])
def test_deviations_of_the_proxies_are_those_of_networks_trained_by_hand(step, split):
    inputs, _, whitening = samples()
    points = inputs if split == "train" else samples(30, seed=1, whitening=whitening)[0]
    outputs = predicted(descended(network(), step, LR, EPSILON), points, EPSILON)
    found = {proxy: float((outputs - values).abs().mean()) for proxy, values in proxies_by_hand(step, points).items()}
    logged = {proxy: at(run()[0], step)[f"proxy/{proxy}/{split}_deviation"] for proxy in found}
    assert logged == pytest.approx(found, rel=1e-7, abs=1e-14)


@STEPS
@pytest.mark.parametrize("order", [1, 2])
def test_deviations_on_both_sets_stay_below_the_theorem(step, order):
    logged = at(run()[0], step)
    prefix = f"proxy/order_{order}"
    deviation = logged[f"{prefix}/train_deviation"] + logged[f"{prefix}/val_deviation"]
    # At time 0 both are 0.
    assert deviation <= logged[f"{prefix}/deviation_bound"] + 1e-14


@pytest.mark.parametrize("step", [1, 6])
@pytest.mark.parametrize("proxy", ["linear", "order_1", "order_2"])
def test_the_bound_by_a_proxy_holds_for_the_validation_data(step, proxy):
    logged = at(run()[0], step)
    assert logged["val/error"] <= logged[f"proxy/{proxy}/optimistic_bound"]
    assert logged[f"proxy/{proxy}/gap"] <= 1


@pytest.mark.parametrize("step", [1, 6])
def test_the_change_by_halved_steps_is_that_of_twice_as_many_steps_by_hand(step):
    inputs, _, _ = samples()
    whole, halves = descended(network(), step, LR, EPSILON), descended(network(), 2 * step, LR / 2, EPSILON)
    outputs = predicted(whole, inputs, EPSILON)
    change = float((predicted(halves, inputs, EPSILON) - outputs).norm() / outputs.norm())
    assert at(run()[0], step)["halving_change"] == pytest.approx(change, rel=1e-7)


def test_the_linear_companion_is_the_linear_network_trained_in_its_place():
    linear = network(epsilon=0.0)
    fit(NearlyLinear(), module(linear))
    kept = run()[0].companions.linear
    assert_close(kept, [layer.weight.detach() for layer in linear.linear_layers], rtol=1e-12, atol=1e-15)


def names_of(callback):
    return {name for row in callback.history for name in row} - {"step", "epoch"}


PER_RUN = {
    *("time", "loss", "projected_loss", "train/error", "val/error", "val/input_energy", "weight_norm"),
    *("weight_norm_bound", "first_layer_norm", "first_layer_norm_bound", "derivative_norm_bound"),
    *("generalization_bound/counting", "generalization_bound/deviation", "generalization_bound/margin"),
    *("generalization_bound/train_margin_risk", "generalization_bound/valid", "generalization_bound/vacuous"),
    *("generalization_bound/strict_counting", "halving_change"),
}
PER_MARGIN = {"generalization_bound", "theorem_bound", "train_margin_risk"}
PER_PROXY = {"train_deviation", "val_deviation", "gap", "optimistic_bound"}


def test_the_page_names_what_is_logged():
    section = re.search(r"Logs, below ``.*?:\n(.*?)\n\n", NearlyLinear.__doc__, flags=re.DOTALL)[1]
    quoted = set(re.findall(r"``([a-z][a-z0-9_/]*[a-z0-9])``", section))
    assert quoted == PER_RUN | PER_MARGIN | PER_PROXY | {"deviation_bound", "proxies"}


def test_exactly_what_the_page_names_is_logged():
    expected = {f"nearly_linear/{name}" for name in PER_RUN | {"generalization_bound"}}
    expected |= {f"nearly_linear/margin_{q}/{name}" for q in (1, 10, 100) for name in PER_MARGIN}
    expected |= {f"nearly_linear/proxy/{p}/{name}" for p in ("linear", "order_1", "order_2") for name in PER_PROXY}
    expected |= {f"nearly_linear/proxy/order_{order}/deviation_bound" for order in (1, 2)}
    expected |= {f"nearly_linear/layers/network_layers_{i}_weight/spectral_norm" for i in (0, 2)}
    assert {name for name in names_of(run()[0]) if not name.startswith("bounds/")} == expected


def test_the_last_numbers_are_metrics_of_the_trainer_and_reach_the_loggers():
    callback, _, trainer, logger = run()
    key = "nearly_linear/generalization_bound"
    assert float(trainer.callback_metrics[key]) == at(callback, 6)["generalization_bound"]
    assert [row[key] for row in logger.records if key in row] == [
        at(callback, s)["generalization_bound"] for s in range(7)
    ]


def condition_rows(callback):
    return {row[0]: row for row in callback.tables()["nearly_linear/conditions"].rows}


def status(callback, name):
    return condition_rows(callback)[name][3]


STEP, FLOW = "loss", "gradient_flow"


def test_conditions_that_a_plain_training_meets_hold():
    callback = run()[0]
    met = ["architecture", STEP, "optimizer", "whitened", "full_rank", "projected_loss", "initial_norms", "samples"]
    met += ["precision", "time"]
    assert {name: status(callback, name) for name in met} == dict.fromkeys(met, "holds")
    assert float(condition_rows(callback)[STEP][1]) < 1e-12


def test_tables_and_figures_show_the_smallest_bound_of_the_run():
    callback = run()[0]
    table, figures = callback.tables()["nearly_linear/bounds"], callback.figures()
    smallest = [min(at(callback, s)[f"margin_{q}/generalization_bound"] for s in range(7)) for q in (1, 10, 100)]
    assert [row[3] for row in table.rows] == smallest
    assert set(figures) == {"nearly_linear", "nearly_linear/norms"}
    panel = figures["nearly_linear/norms"].axes[0]
    lines = {line.get_label(): line.get_ydata().tolist() for line in panel.lines}
    bottom, top = panel.get_ylim()
    assert all(bottom < value < top for values in lines.values() for value in values)
    # The curves fill the panel, which does not begin at zero on a logarithmic axis.
    assert top < 10 * max(lines["its bound u"])
    assert bottom > 0.1 * min(lines["largest spectral norm"])
    assert lines["largest spectral norm"] == [at(callback, s)["weight_norm"] for s in range(7)]


# What each training breaks, by the condition that says so.
BREAKS = {
    "momentum": (lambda: fitted(module(momentum=0.9)), "optimizer"),
    "momentum_in_its_steps": (lambda: fitted(module(momentum=0.9)), STEP),
    "weight_decay": (lambda: fitted(module(weight_decay=0.1)), "optimizer"),
    "adam": (lambda: fitted(adam()), "optimizer"),
    "clipping": (lambda: fitted(module(), gradient_clip_val=1e-3), "optimizer"),
    "clipping_in_its_steps": (lambda: fitted(module(), gradient_clip_val=1e-3), STEP),
    "batches": (lambda: fitted(module(), loader(*samples()[:2], batch_size=20)), STEP),
    "another_loss": (lambda: fitted(module(loss="logistic")), STEP),
    "another_scale": (lambda: fitted(module(loss=doubled)), STEP),
    "raw_inputs": (lambda: fitted(module(), loader(3 * samples()[0], samples()[1])), "whitened"),
    "assumed_samples": (lambda: fitted(module(), assumed_samples=6000), "samples"),
    "few_bits": (lambda: fitted(module(), precision_bits=32), "precision"),
    "large_steps": (lambda: fitted(module(lr=1.5), proxies=True), FLOW),
    "frozen_layer": (lambda: fitted(frozen()), STEP),
}


def doubled(outputs, targets):
    return nn.functional.mse_loss(outputs[:, 0], 2.0 * targets - 1)


def adam():
    return Supervised(network(), optimizer=functools.partial(torch.optim.Adam, lr=0.01))


def frozen():
    net = network()
    net.linear_layers[1].requires_grad_(False)
    return module(net)


def fitted(trained, train=None, gradient_clip_val=None, **arguments):
    callback = NearlyLinear(schedule=EACH_STEP, **arguments)
    fit(callback, trained, train, gradient_clip_val=gradient_clip_val)
    return callback


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_assumption_is_told_and_the_bound_is_not_valid(what):
    make, name = BREAKS[what]
    callback = make()
    assert set(statuses(callback)) == {0.0}
    assert status(callback, name) == "violated"
    assert at(callback, 2)["generalization_bound/valid"] == 0.0


def test_the_time_scale_of_a_doubled_loss_makes_it_the_same_training():
    plain, scaled = fitted(module()), fitted(module(loss=doubled, lr=LR / 2), time_scale=2.0)
    assert status(scaled, STEP) == "holds"
    keys = ("time", "weight_norm_bound", "generalization_bound", "loss")
    assert [at(scaled, 6)[key] for key in keys] == pytest.approx([at(plain, 6)[key] for key in keys], rel=1e-9)


def test_time_is_the_sum_of_the_learning_rates_of_a_schedule():
    halved = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    callback = fitted(module(scheduler=halved))
    assert [at(callback, step)["time"] for step in range(7)] == pytest.approx([0, 0.1, 0.2, 0.25, 0.3, 0.325, 0.35])
    assert status(callback, STEP) == "holds"


def test_accumulated_batches_make_one_step():
    callback = NearlyLinear(schedule=EACH_STEP)
    fit(callback, module(), loader(*samples()[:2], batch_size=20), accumulate_grad_batches=3)
    assert [at(callback, step)["loss"] for step in range(7)] == pytest.approx(
        [at(run()[0], step)["loss"] for step in range(7)], rel=1e-9
    )
    assert at(callback, 6)["time"] == pytest.approx(6 * LR)
    assert status(callback, STEP) == "holds"


def test_unused_features_leave_the_rank_in_the_place_of_the_dimension():
    inputs, labels, _ = samples()
    wide = torch.cat([inputs, torch.zeros(60, 2)], dim=1) @ torch.linalg.qr(torch.randn(7, 7)).Q
    callback = NearlyLinear(schedule=EACH_STEP)
    fit(callback, module(network(in_features=7)), loader(wide, labels), val=False)
    assert (callback.setting.rank, callback.setting.features) == (5, 7)
    assert (status(callback, "whitened"), status(callback, "full_rank")) == ("holds", "holds")
    assert at(callback, 0)["generalization_bound/counting"] == at(run()[0], 0)["generalization_bound/counting"]


def test_past_the_blow_up_nothing_infinite_is_logged_and_the_bound_is_vacuous():
    callback = NearlyLinear(schedule=EACH_STEP)
    fit(callback, module(network(depth=3, beta=0.5, epsilon=0.5), lr=2.0), val=False)
    assert set(statuses(callback)) == {0.0}
    assert at(callback, 6)["generalization_bound/vacuous"] == 1.0
    assert "generalization_bound" not in at(callback, 6)
    assert all(math.isfinite(value) for row in callback.history for value in row.values())
    assert callback.tables()["nearly_linear/conditions"].rows


def test_bounds_that_no_metric_in_single_precision_can_hold_are_left_out():
    torch.set_default_dtype(torch.float32)
    inputs, labels, _ = samples()
    callback = NearlyLinear(schedule=EACH_STEP, margin_ratios=[1, 1e40])
    fit(callback, module(network(epsilon=1.0)), loader(inputs.float(), labels), val=False)
    assert set(statuses(callback)) == {0.0}
    assert "margin_1e_40/generalization_bound" not in at(callback, 6)
    assert "margin_1/generalization_bound" in at(callback, 6)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_chooses_the_proxy_of_the_bound(order):
    callback = fitted(module(), order=order, margin_ratios=[2.5])
    bound = nearly_linear.apriori_bound(
        **constants(),
        dim=5,
        samples=60,
        time=6 * LR,
        margin=constants()["beta"] ** 2 / 2.5,
        order=order,
        delta=0.01 / 56,
        precision_bits=64,
        variant="corrected_tight",
    )
    logged = at(callback, 6)
    assert logged["generalization_bound/deviation"] == pytest.approx(bound.terms["deviation"], rel=1e-9)
    assert logged["margin_2_5/generalization_bound"] == logged["generalization_bound"]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4, bias=False), nn.Linear(4, 1, bias=False)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))


def stacked(*parts):
    return nn.Sequential(nn.Linear(5, 4, bias=False), *parts)


OTHERS = {
    "bias": (lambda: stacked(nn.ReLU(), nn.Linear(4, 1)), r"biases \(network.2\)"),
    "activation": (lambda: stacked(nn.Tanh(), nn.Linear(4, 1, bias=False)), r"other parts \(Tanh\)"),
    "batch_norm": (lambda: stacked(nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)), r"other parts \(BatchNorm1d\)"),
    "outputs": (lambda: stacked(nn.ReLU(), nn.Linear(4, 2, bias=False)), r"outputs other than 1 \(2\)"),
    "one_layer": (lambda: nn.Linear(5, 1, bias=False), r"fewer than two linear layers \(1\)"),
    "slopes": (
        lambda: stacked(nn.ReLU(), nn.Linear(4, 4, bias=False), nn.LeakyReLU(0.5), nn.Linear(4, 1, bias=False)),
        "different slopes",
    ),
    "no_activation_somewhere": (
        lambda: stacked(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)),
        "do not stand between all layers",
    ),
    "activation_at_the_end": (lambda: stacked(nn.Linear(4, 1, bias=False), nn.ReLU()), "do not stand between"),
    "weight_norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(5, 4, bias=False)), nn.ReLU(), nn.Linear(4, 1, bias=False)
        ),
        "parameters of no linear layer",
    ),
    "function_in_forward": (Functional, "differ by up to .*make every activation a part of the module"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_network_to_which_the_theorem_does_not_apply_is_refused_with_the_reason(what):
    make, message = OTHERS[what]
    labels = samples()[1]
    with pytest.raises(ValueError, match=message):
        fit(NearlyLinear(), module(make(), loss="least_squares"), loader(samples()[0], labels), val=False)


def test_a_stack_of_linear_layers_is_the_network_of_epsilon_zero():
    layers = leaky_layers(stacked(nn.Linear(4, 3, bias=False), nn.Identity(), nn.Linear(3, 1, bias=False)))
    assert (layers.epsilon, layers.names) == (0.0, ["0.weight", "1.weight", "3.weight"])


def test_real_targets_that_are_no_signs_are_refused():
    inputs, labels, _ = samples()
    trained = Supervised(network(), optimizer=functools.partial(torch.optim.SGD, lr=LR), classification=False)
    with pytest.raises(ValueError, match="labels -1 and"):
        fit(NearlyLinear(), trained, loader(inputs, labels + 0.5), val=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin_ratios": []}, "`margin_ratios` of different numbers"),
        ({"margin_ratios": [1, 1.0]}, "`margin_ratios` of different numbers"),
        ({"margin_ratios": [0]}, "`margin_ratios` to be positive"),
        ({"order": 3}, "`order`, kappa, to be 1 or 2"),
        ({"delta": 1.0}, r"`delta` in \(0, 1\)"),
        ({"time_scale": 0}, "`time_scale` to be positive"),
        ({"assumed_samples": 1}, "`assumed_samples` to be an integer of at least 2"),
        ({"precision_bits": 16.0}, "`precision_bits` to be an integer"),
        ({"splits": ["val"]}, "training data among `splits`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NearlyLinear(**arguments)


def traced(callbacks, trained, **options):
    """What a training leaves behind, without our own numbers."""
    torch.manual_seed(3)
    trace = Trace()
    inputs, labels, whitening = samples()
    trainer = quiet_trainer([*callbacks, trace], logger=MemoryLogger(), max_epochs=3, **options)
    unseen = loader(*samples(30, seed=1, whitening=whitening)[:2])
    trainer.fit(trained, loader(inputs, labels, batch_size=16, shuffle=True), unseen)

    def rest(row):
        return {name: value for name, value in row.items() if not name.startswith("nearly_linear/")}

    left = trace.everything(trainer)
    return {**left, "metrics": [rest(row) for row in left["metrics"]], "last": rest(left["last"])}


TRAININGS = {
    "momentum": lambda: (module(momentum=0.9), {}),
    "adam": lambda: (adam(), {}),
    "accumulation": lambda: (module(), {"accumulate_grad_batches": 3}),
    "clipping": lambda: (module(), {"gradient_clip_val": 0.01}),
    "schedule": lambda: (module(scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)), {}),
    "anomaly_detection": lambda: (module(), {"detect_anomaly": True}),
    "within_an_epoch": lambda: (module(), {"max_steps": 5, "val_check_interval": 2}),
}


@pytest.mark.parametrize("what", TRAININGS)
@pytest.mark.filterwarnings("ignore")
def test_training_is_bit_identical_with_the_callback_and_its_proxies(what):
    callback = NearlyLinear(proxies=True, schedule=Schedule(every_n_steps=2))
    (first, options), (second, _) = TRAININGS[what](), TRAININGS[what]()
    expected, got = traced([], first, **options), traced([callback], second, **options)
    assert set(statuses(callback)) == {0.0}
    assert len(measured_steps(callback)) > 2
    assert differences(expected, got) == []


def timeless(callback):
    rows = callback.history
    return [{name: value for name, value in row.items() if not name.startswith("bounds/cost/")} for row in rows]


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_training_has_the_history_of_an_uninterrupted_one(tmp_path, step):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole, again = (NearlyLinear(proxies=True, schedule=EACH_STEP) for _ in range(2))
    inputs, labels, whitening = samples()
    trainer = quiet_trainer([whole, keep], max_epochs=6, enable_checkpointing=True, num_sanity_val_steps=0)
    trainer.fit(module(), loader(inputs, labels), loader(*samples(30, seed=1, whitening=whitening)[:2]))
    fit(again, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert timeless(again) == timeless(whole)
    assert again.tables() == whole.tables()
    torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    callback = NearlyLinear()
    trainer = fit(callback)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    with pytest.raises(ValueError, match="network of the checkpoint's run"):
        fit(NearlyLinear(), module(network(epsilon=0.2)), ckpt_path=tmp_path / "kept.ckpt", max_epochs=8)


def test_a_training_that_began_without_the_callback_leaves_the_initial_norms_open(tmp_path):
    trainer = quiet_trainer([], max_epochs=2)
    trainer.fit(module(), loader(*samples()[:2]))
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    callback = NearlyLinear(schedule=EACH_STEP)
    with pytest.warns(UserWarning, match="knows nothing of the first 2 steps"):
        fit(callback, ckpt_path=tmp_path / "kept.ckpt")
    assert status(callback, "initial_norms") == "unknown"
    assert status(callback, STEP) == "unknown"


def test_a_copy_of_the_callback_leaves_the_data_behind():
    callback = NearlyLinear(proxies=True)
    fit(callback)
    assert callback._data is None
    assert copy.deepcopy(callback).setting == callback.setting
