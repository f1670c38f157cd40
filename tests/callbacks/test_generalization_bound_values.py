"""The bounds that are logged during training, against direct calls of the theory and formulas by hand."""

import functools
import math

import pytest
import torch
from bound_training import (
    CENTERS,
    COUNT,
    NUMBERS,
    RADII,
    RATE,
    SETTINGS,
    WIDTH,
    Copies,
    callback,
    data,
    network,
    supervised,
    train,
)
from small_training import quiet_trainer, series, statuses

from lightning_bounds import Probe, Schedule, Snapshot
from lightning_bounds.data import ImageDataModule, digits
from lightning_bounds.models import Supervised, TwoLayerNetwork
from lightning_bounds.theory import fine_grained, information_space

SIGN_BOUNDS = [name for name in SETTINGS if name.startswith("fine_grained")]
SPACE_BOUNDS = [name for name in SETTINGS if name.startswith("information_space")]


class Run:
    """Three full-batch steps with every bound that is about the network."""

    def __init__(self, names, outputs, activation, initialization):
        self.copies, self.bounds = Copies(), callback({name: SETTINGS[name] for name in names})
        self.net = network(outputs, activation, initialization)
        samples = data(classes=max(outputs, 2))
        self.trainer = train([self.copies, self.bounds], supervised(self.net), samples)
        self.inputs, classes = samples
        self.labels = torch.nn.functional.one_hot(classes).double() if outputs > 1 else (2.0 * classes - 1)[:, None]

    def moved(self, step):
        return self.copies.by_step[step].hidden.weight.detach() - self.copies.by_step[0].hidden.weight.detach()

    def residual(self, step):
        return self.copies.by_step[step](self.inputs).detach() - self.labels

    def value(self, name, step):
        return series(self.bounds, f"{name}/generalization_bound")[step]

    def terms(self, name, step):
        (row,) = [row for row in self.bounds.history if row["step"] == step]
        key = f"{name}/generalization_bound/"
        return {k.removeprefix(key): v for k, v in row.items() if k.startswith(key)}


@functools.cache
def signs():
    with_default = torch.get_default_dtype()
    assert with_default == torch.float64
    return Run(SIGN_BOUNDS, 1, "relu", "fine_grained")


@functools.cache
def classes():
    return Run(SPACE_BOUNDS, 2, "tanh", "information_space")


def expected_fine_grained(run, step):
    kappa = float(run.copies.by_step[0].hidden.weight.detach().square().mean().sqrt())
    options = {"delta": 0.1, "width": WIDTH, "kappa": kappa, "learning_rate": RATE, "steps": step}
    return fine_grained.generalization_bound(run.inputs, run.labels, **options)


def expected_space(name, run):
    options = {"activation": "tanh", "width": WIDTH, "learning_rate": RATE}
    X, Y = run.inputs, run.labels
    if name == "information_space_full_rank":
        return information_space.full_rank_bound(X, Y, activation="tanh", delta=0.1, width=WIDTH)
    if name == "information_space_mixture":
        settings = {**SETTINGS[name], "centers": torch.tensor(CENTERS)}
        return information_space.mixture_bound(
            **settings, num_classes=2, num_samples=COUNT, activation="tanh", width=WIDTH
        )
    if name == "information_space_arbitrary_initialization":
        # The engine's Jacobian of the hidden layer, and the network's own outputs.
        targets = Y.argmax(dim=1)
        start = Snapshot(run.copies.by_step[0], X, targets, probe=Probe(layers=["hidden"]))
        return information_space.arbitrary_initialization_bound(
            start.spectrum, start.residual, inputs=X, nu=1.0, **NUMBERS, **options
        )
    kinds = {"random_initialization": "", "simplified_random_initialization": "simplified_"}
    kind = kinds[name.removeprefix("information_space_")]
    return getattr(information_space, f"{kind}random_initialization_bound")(X, Y, **NUMBERS, **options)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_fine_grained_bound_is_that_of_the_theory_with_what_the_training_is(step):
    bound, seen = expected_fine_grained(signs(), step), signs().terms("fine_grained", step)
    assert signs().value("fine_grained", step) == pytest.approx(bound.value, rel=1e-12)
    assert {name: seen[name] for name in bound.terms} == pytest.approx(dict(bound.terms), rel=1e-12)


def test_conditions_of_the_fine_grained_bound_are_those_of_the_theory_after_the_last_step():
    known = {item.name: item for item in signs().bounds.latest["fine_grained"].conditions}
    assert [known[item.name] for item in expected_fine_grained(signs(), 3).conditions] == list(
        expected_fine_grained(signs(), 3).conditions
    )


DATA_BOUNDS = [name for name in SPACE_BOUNDS if name.split("_")[-1] not in ("classification", "loss")]


@pytest.mark.parametrize("name", DATA_BOUNDS)
@pytest.mark.parametrize("step", [0, 3])
def test_bounds_of_the_information_space_are_those_of_the_theory(name, step):
    bound, seen = expected_space(name, classes()), classes().terms(name, step)
    assert classes().value(name, step) == pytest.approx(bound.value, rel=1e-9)
    assert {term: seen[term] for term in bound.terms} == pytest.approx(dict(bound.terms), rel=1e-9)
    assert seen["vacuous"] == float(bound.vacuous)


@pytest.mark.parametrize("name", DATA_BOUNDS)
def test_what_the_theory_assumes_is_among_the_conditions(name):
    found = {item.name: item for item in classes().bounds.latest[name].conditions}
    decided = [item for item in expected_space(name, classes()).conditions if item.name != "one_hot_labels"]
    assert len(decided) > 3
    assert [found[item.name].status for item in decided] == [item.status for item in decided]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_certificate_follows_the_weights(step):
    run, name = signs(), "fine_grained_certificate"
    outputs = run.copies.by_step[step](run.inputs).detach()
    losses = (1 - outputs * run.labels).clamp(0, 1)
    radius = max(math.ceil(float(run.moved(step).norm())), 1)
    kappa = float(run.copies.by_step[0].hidden.weight.detach().square().mean().sqrt())
    log = 2 * math.log(40)
    R, n = 0.5, COUNT
    rows = 2 * (2 * math.sqrt(2 / math.pi) * R**2 * math.sqrt(WIDTH) / kappa + R * math.sqrt(log))
    assert float(run.moved(step).norm(dim=1).max()) <= R
    assert run.terms(name, step) == pytest.approx(
        {
            "training_loss": float(losses.mean()),
            "distance": 2 * radius / math.sqrt(2 * n) * (1 + (log / WIDTH) ** 0.25),
            "row_distance": rows,
            "confidence": 3 * math.sqrt(math.log(800) / (2 * n)),
            "valid": 1.0,
            "vacuous": 1.0,
        },
        rel=1e-9,
    )
    assert run.value(name, step) == pytest.approx(sum(run.terms(name, step).values()) - 2)


def test_certificate_compares_the_rows_with_the_radius_that_was_chosen():
    found = {item.name: item.actual for item in signs().bounds.latest["fine_grained_certificate"].conditions}
    assert found["row_distance"] == pytest.approx(float(signs().moved(3).norm(dim=1).max()))
    assert (found["output_distance"], found["norm_deviation"]) == (0.0, pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize("step", [0, 1, 3])
def test_bounds_of_fixed_radii_follow_the_residual(step):
    residual, root = classes().residual(step), math.sqrt(5 * math.log(20) / COUNT)
    # nu = 1 and B = 1, of tanh: (6.40).
    complexity = 2 * math.sqrt(2) * (2.0 / math.sqrt(COUNT) + 9.0 / math.sqrt(WIDTH))
    fit = float(residual.norm()) / math.sqrt(COUNT)
    truncated = float(residual.norm(dim=1).clamp(max=1).mean())
    assert classes().value("information_space_classification", step) == pytest.approx(2 * (fit + complexity + root))
    assert classes().value("information_space_loss", step) == pytest.approx(truncated + complexity + root)


@pytest.mark.parametrize("name", ["information_space_classification", "information_space_loss"])
def test_radii_are_compared_with_how_far_the_weights_are(name):
    moved = classes().moved(3)
    found = {item.name: item.actual for item in classes().bounds.latest[name].conditions}
    assert found["distance"] == pytest.approx(float(moved.norm()))
    assert found["row_distance"] == pytest.approx(math.sqrt(WIDTH) * float(moved.norm(dim=1).max()))
    assert found["output_distance"] == 0.0
    assert classes().terms(name, 3)["valid"] == 1.0


@pytest.mark.parametrize("radius", ["distance", "row_distance"])
def test_weights_that_leave_the_class_are_told(radius):
    name = "information_space_classification"
    bounds = callback({name: {**RADII, radius: 1e-3}})
    train([bounds], supervised(network(2, "tanh", "information_space")), data())
    assert series(bounds, f"{name}/generalization_bound/valid") == {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0}
    assert [item.name for item in bounds.latest[name].conditions if item.holds is False] == [radius]


def test_a_trained_output_layer_counts_with_its_own_radius():
    name, copies = "information_space_classification", Copies()
    bounds = callback({name: {**RADII, "output_distance": 5.0}})
    net = network(2, "tanh", "information_space", train_output=True)
    train([copies, bounds], supervised(net), data())
    moved = copies.by_step[3].output.weight.detach() - copies.by_step[0].output.weight.detach()
    found = {item.name: item.actual for item in bounds.latest[name].conditions}
    assert found["output_distance"] == pytest.approx(math.sqrt(2 * WIDTH) * float(moved.norm()))
    energy = float(copies.by_step[0].hidden(data()[0]).tanh().detach().square().mean().sqrt())
    linear, square = (2.0 + energy * 5.0) / math.sqrt(COUNT), (9.0 + 10.0) / math.sqrt(WIDTH)
    assert bounds.latest[name].terms["complexity"] == pytest.approx(2 * 2 * math.sqrt(2) * (linear + square))


@pytest.mark.parametrize(("scale", "status"), [(1.0, "holds"), (2.0, "violated")])
def test_output_weights_of_another_size_than_the_theorem_starts_from_are_told(scale, status):
    bounds = callback()
    train([bounds], supervised(network(output_scale=scale)))
    assert {item.name: item.status for item in bounds.latest["fine_grained"].conditions}["output_deviation"] == status


def test_the_initialization_of_theorem_3_2_keeps_its_conditions():
    name = "information_space_random_initialization"
    nu = 0.2 / (50 * math.sqrt(math.log(4)))
    bounds = callback({name: NUMBERS})
    train([bounds], supervised(network(2, "tanh", "information_space", output_scale=nu)), data())
    found = {item.name: item.status for item in bounds.latest[name].conditions}
    assert (found["initial_scale"], found["output_deviation"], found["network"]) == ("holds",) * 3


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1), ("mean", COUNT)])
def test_the_learning_rate_is_that_of_the_summed_loss(reduction, factor):
    bounds = callback()
    train([bounds], supervised(lr=RATE * factor, reduction=reduction))
    found = {item.name: item.actual for item in bounds.latest["fine_grained"].conditions}
    assert found["learning_rate"] == pytest.approx(RATE)


def digits_run(noise, epochs=1000):
    """A wide ReLU network, trained by gradient descent on 0 and 1 of real digits, with labels drawn again."""
    torch.set_default_dtype(torch.float32)
    try:
        images = ImageDataModule(
            digits.load, [0, 1], label_noise=noise, noise_convention="uniform", noisy_test=True, batch_size=None
        )
        net = TwoLayerNetwork(64, 500, 1, "relu", "fine_grained", input_scale=0.1, seed=1)
        module = Supervised(net, reduction="sum", optimizer=functools.partial(torch.optim.SGD, lr=0.01))
        bounds = callback(
            {"fine_grained": {"delta": 0.05}}, probe=Probe(num_samples=1000), schedule=Schedule(every_n_epochs=500)
        )
        trainer = quiet_trainer([bounds], max_epochs=epochs, check_val_every_n_epoch=epochs)
        trainer.fit(module, images)
    finally:
        torch.set_default_dtype(torch.float64)
    assert set(statuses(bounds)) == {0.0}
    return bounds.latest["fine_grained"], bounds.errors[-1][1], float(trainer.callback_metrics["train/loss"])


digits_runs = functools.cache(digits_run)


@pytest.mark.slow
def test_the_error_of_a_network_that_has_converged_is_below_a_bound_that_is_not_vacuous():
    bound, error, loss = digits_runs(0.0)
    assert bound.valid
    assert loss < 5e-3
    assert error <= bound.value < 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("less", "more"), [(0.0, 0.5), (0.5, 1.0)])
def test_more_random_labels_make_the_bound_and_the_test_error_larger(less, more):
    (low, low_error, _), (high, high_error, _) = digits_runs(less), digits_runs(more)
    assert low.value < high.value
    assert low_error < high_error <= high.value
