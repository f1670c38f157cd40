"""What fixed kernels predict, and how the network's own kernel drifts, against loops and real gradient descent."""

import re

import pytest
import torch
from references import jacobian_by_loop
from small_training import fit, loader, measured_steps, mlp, quiet_trainer, samples, statuses
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from training_trace import differences
from wide_training import column, descend, last, monitor, sphere, two_layer

from lightning_bounds import JacobianSpectrum, Probe, Schedule, TrajectoryMonitor
from lightning_bounds.callbacks.trajectory.predictions import Prediction, fine_grained_spectrum
from lightning_bounds.jacobian import JacobianOperator
from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised
from lightning_bounds.report import MemoryLogger
from lightning_bounds.theory import fine_grained

LEARNING_RATES = {"constant": lambda step: 0.2, "halved_twice": lambda step: 0.2 * 0.5 ** (step // 4)}


def halving(optimizer):
    return StepLR(optimizer, step_size=4, gamma=0.5)


def linear_descent(network, inputs, targets, rates):
    """Residual and parameters of the linearized network after each step, by a loop in parameter space."""
    jacobian = jacobian_by_loop(network, inputs)
    start = (network(inputs) - nn.functional.one_hot(targets, 2)).detach().flatten()
    moved = torch.zeros(jacobian.shape[1])
    found = [(start, moved)]
    for rate in rates:
        moved = moved - rate * jacobian.T @ (start + jacobian @ moved)
        found.append((start + jacobian @ moved, moved))
    return found


@pytest.mark.parametrize("kind", LEARNING_RATES)
@pytest.mark.parametrize("step", [0, 3, 10])
def test_linearized_prediction_is_gradient_descent_on_the_linearized_network(kind, step):
    inputs, targets = samples(6)
    network, callback = mlp(), monitor(every=1, predictions=["linearized"])
    expected = linear_descent(network, inputs, targets, [LEARNING_RATES[kind](s) for s in range(10)])
    scheduler = {"constant": None, "halved_twice": halving}[kind]
    descend(network, [callback], (inputs, targets), lr=0.2, steps=10, scheduler=scheduler)
    residual, moved = expected[step]
    assert column(callback, "linearized/residual")[step] == pytest.approx(float(residual.norm()), rel=1e-9)
    assert column(callback, "linearized/distance")[step] == pytest.approx(float(moved.norm()), rel=1e-9)


def test_deviation_is_that_of_the_residual_vectors():
    inputs, targets = samples(6)
    network, callback = mlp(), monitor(predictions=["linearized"])
    expected, _ = linear_descent(network, inputs, targets, [0.2] * 10)[-1]
    start = (network(inputs) - nn.functional.one_hot(targets, 2)).detach()
    descend(network, [callback], (inputs, targets), lr=0.2, steps=10)
    after = (network(inputs) - nn.functional.one_hot(targets, 2)).detach().flatten()
    assert last(callback, "linearized/deviation") == pytest.approx(float((after - expected).norm() / start.norm()))
    assert last(callback, "residual") == pytest.approx(float(after.norm()), rel=1e-12)


class MeanSquares(pl.LightningModule):
    """The usual module: torch's mean over samples and outputs, and nothing that tells about it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0]), nn.functional.one_hot(batch[1], 2).to(batch[0]))

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.3)


WAYS = {
    "sum": {"reduction": "sum", "lr": 0.05},
    "mean": {"reduction": "mean", "lr": 0.4},
    "scheduler": {"reduction": "mean", "lr": 0.4, "scheduler": halving},
    "accumulated_mean": {"reduction": "mean", "lr": 0.4, "batch_size": 3, "accumulate_grad_batches": 2},
    "accumulated_sum": {"reduction": "sum", "lr": 0.05, "batch_size": 3, "accumulate_grad_batches": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_linear_network_follows_its_linearized_prediction_exactly_whatever_the_scale_of_the_loss(way):
    callback = monitor(predictions=["linearized"])
    descend(nn.Linear(3, 2), [callback], samples(6), steps=20, **WAYS[way])
    assert max(column(callback, "linearized/deviation").values()) < 1e-12
    assert last(callback, "residual") < 0.9 * column(callback, "residual")[0]
    assert last(callback, "linearized/distance") == pytest.approx(last(callback, "distance"), rel=1e-9)
    assert last(callback, "kernel/drift") < 1e-12


def test_loss_scale_is_what_the_summed_loss_is_multiplied_by():
    callback = monitor(predictions=["linearized"], loss_scale=2 / (6 * 2))
    quiet_trainer([callback], max_epochs=10).fit(MeanSquares(nn.Linear(3, 2)), loader(6, batch_size=6))
    assert max(column(callback, "linearized/deviation").values()) < 1e-12


def test_minibatches_follow_the_prediction_on_average_over_an_epoch():
    callback = monitor(predictions=["linearized"])
    descend(nn.Linear(3, 2), [callback], samples(12), batch_size=3, steps=100, lr=0.01, reduction="sum")
    assert 0 < last(callback, "linearized/deviation") < 0.01
    assert last(callback, "linearized/residual") == pytest.approx(last(callback, "residual"), rel=0.01)


@pytest.mark.parametrize("initialization", ["fine_grained", "overparameterization"])
def test_fine_grained_prediction_is_that_of_the_theory_with_the_initial_outputs(initialization):
    (inputs, targets), steps = sphere(), [0, 10, 20]
    network = two_layer(width=50, initialization=initialization)
    start, callback = network(inputs).detach().flatten(), monitor(predictions=["fine_grained"])
    descend(network, [callback], (inputs, targets))
    arguments = (fine_grained.relu_gram(inputs), 2.0 * targets - 1, 0.1, steps, start)
    residual, distance = column(callback, "fine_grained/residual"), column(callback, "fine_grained/distance")
    assert list(residual.values()) == pytest.approx(fine_grained.predicted_residual_norm(*arguments).tolist())
    assert list(distance.values()) == pytest.approx(fine_grained.auxiliary_movement(*arguments).tolist(), abs=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_fine_grained_kernel_is_the_limit_of_wide_networks(outputs):
    inputs, _ = sphere(5)
    network = two_layer(width=40_000, initialization="information_space", out_features=outputs)
    gram = JacobianOperator(network, inputs).gram()
    spectrum = fine_grained_spectrum(inputs, network.output.weight)
    limit = spectrum.left_vectors @ spectrum.singular_values.square().diag() @ spectrum.left_vectors.T
    assert float((limit - gram).norm() / gram.norm()) < 0.02


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prediction", ["linearized", "fine_grained"])
def test_a_wide_relu_network_follows_both_predictions(prediction, seed):
    callback = monitor(guarantees={})
    descend(two_layer(width=8000, seed=seed), [callback], sphere(seed=seed), steps=60, lr=0.2)
    assert last(callback, "residual") < 0.2 * column(callback, "residual")[0]
    assert max(column(callback, f"{prediction}/deviation").values()) < 0.02
    assert last(callback, f"{prediction}/distance") == pytest.approx(last(callback, "distance"), rel=0.02)


def test_kernel_drift_and_stability_are_those_of_the_dense_jacobians():
    inputs, targets = samples(6)
    network, callback = mlp(), monitor(predictions=[])
    first = jacobian_by_loop(network, inputs)
    descend(network, [callback], (inputs, targets), lr=0.2, steps=10)
    now = jacobian_by_loop(network, inputs)
    before, after = first @ first.T, now @ now.T
    frobenius, spectral = (
        float(torch.linalg.matrix_norm(after - before, p) / torch.linalg.matrix_norm(before, p)) for p in ("fro", 2)
    )
    assert last(callback, "kernel/drift") == pytest.approx(frobenius, rel=1e-9)
    assert last(callback, "kernel/spectral_drift") == pytest.approx(spectral, rel=1e-9)
    assert last(callback, "kernel/stability") == pytest.approx(0.2 * float(torch.linalg.eigvalsh(after)[-1]), rel=1e-9)
    assert column(callback, "kernel/drift")[0] == column(callback, "kernel/spectral_drift")[0] == 0


# With 16 times the width ReLU's kernel drifts by about a root of that less. In that of a smooth activation the changes
# of units with opposite output weights cancel to first order, and it drifts 16 times less.
RATIOS = {"relu": 4.0, "tanh": 16.0, "softplus": 16.0}


@pytest.mark.parametrize("activation", RATIOS)
def test_drift_shrinks_with_the_width(activation):
    def drift(width):
        callbacks = [monitor(predictions=["linearized"], every=40) for _ in range(4)]
        for seed, callback in enumerate(callbacks):
            descend(two_layer(activation, width, seed=seed), [callback], lr=0.3, steps=40)
        return sum(last(callback, "kernel/drift") for callback in callbacks)

    assert drift(200) / drift(3200) == pytest.approx(RATIOS[activation], rel=0.3)


@pytest.mark.parametrize("width", [50, 800])
def test_drift_is_at_most_what_the_lipschitz_constant_allows(width):
    (inputs, targets), network = sphere(), two_layer("tanh", width)
    callback = monitor(predictions=["linearized"])
    gram = JacobianOperator(network, inputs).gram()
    descend(network, [callback], (inputs, targets), lr=0.3, steps=40)
    # |J(W) - J(W_0)| <= L |W - W_0|_F with L of the order of 1/sqrt(width), so that |H - H_0| <= (2 |J_0| + L D) L D.
    norm, initial = float(torch.linalg.matrix_norm(inputs, 2)), float(torch.linalg.matrix_norm(gram, 2))
    change = 4 / (3 * 3**0.5) / width**0.5 * norm * last(callback, "distance")
    assert 0 < last(callback, "kernel/spectral_drift") <= (2 * initial**0.5 + change) * change / initial


@pytest.mark.parametrize(("factor", "grows"), [(0.95, False), (1.05, True)])
def test_above_two_the_stability_light_says_that_the_residual_grows(factor, grows):
    (inputs, targets), network = sphere(), two_layer("softplus", 20_000)
    limit = 2 / float(torch.linalg.eigvalsh(JacobianOperator(network, inputs).gram())[-1])
    callback = monitor(guarantees={}, every=5)
    descend(network, [callback], (inputs, targets), lr=factor * limit, steps=40)
    assert column(callback, "kernel/stability")[0] == pytest.approx(2 * factor, rel=1e-6)
    residual = list(column(callback, "residual").values())
    # Above 2 it grows until the kernel itself has changed.
    assert (max(residual) > 3 * residual[0]) == grows
    assert (residual == sorted(residual, reverse=True)) == (not grows)
    (light,) = callback.tables()["trajectory/conditions"].rows
    assert light[0] == "stability"
    assert (light[5] == "violated") == grows


def test_a_prediction_that_diverges_beyond_all_numbers_is_left_out():
    prediction = Prediction(torch.tensor([10.0]), torch.eye(1), torch.ones(1))
    assert prediction.after({1.0: 1000}).residual.tolist() == [float("inf")]
    # The outputs of a tanh network are bounded, whatever its hidden weights.
    callback = monitor(predictions=["linearized"], every=100)
    descend(two_layer("tanh", 50), [callback], lr=1e5, steps=100)
    assert set(column(callback, "linearized/residual")) == {0}
    assert set(column(callback, "residual")) == {0, 100}
    assert set(statuses(callback)) == {0.0}


def test_drift_alone_is_measured_with_any_optimizer_and_loss():
    callback = monitor(predictions=[], every=3)
    descend(mlp(), [callback], samples(6), optimizer=Adam, loss="cross_entropy", steps=6)
    names = {name.removeprefix("trajectory/") for row in callback.history for name in row}
    assert {"residual", "kernel/drift", "kernel/spectral_drift"} <= names
    assert not {name for name in names if "stability" in name or "linearized" in name}
    assert set(statuses(callback)) == {0.0}


def test_without_guarantees_and_predictions_nothing_is_added():
    callback = TrajectoryMonitor()
    fit([callback])
    names = {name.removeprefix("trajectory/") for row in callback.history for name in row}
    assert not {name for name in names if "kernel" in name or "residual" in name}
    assert callback.tables() == {}


def plain(**options):
    return TrajectoryMonitor(predictions=["linearized"], **options)


REFUSED = {
    "adam": (plain, {"optimizer": Adam}, "one torch.optim.SGD with one learning rate.*Adam"),
    "cross_entropy": (plain, {"loss": "cross_entropy"}, "least-squares loss"),
    "scale": (lambda: plain(loss_scale=-1.0), {}, "`loss_scale` to be positive"),
    "not_relu": (lambda: TrajectoryMonitor(predictions=["fine_grained"]), {}, "two-layer ReLU network without biases"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_theory_cannot_describe_is_refused_before_the_first_step(what):
    callback, options, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        descend(mlp(), [callback()], samples(6), **options)


def test_a_module_that_does_not_tell_the_scale_of_its_loss_is_refused():
    with pytest.raises(ValueError, match=r"pass `loss_scale`.*2/\(nK\) for MSELoss"):
        fit([plain()], MeanSquares(mlp()))


@pytest.mark.parametrize("predictions", ["linearized", ["linear"]])
def test_unknown_predictions_are_refused(predictions):
    with pytest.raises(ValueError, match=r"`predictions` among \['linearized', 'fine_grained'\], but got"):
        TrajectoryMonitor(predictions=predictions)


def end_of_training(callbacks):
    torch.manual_seed(0)
    network = two_layer(width=40, seed=2)
    trainer = descend(network, callbacks, settings={"momentum": 0.9})
    return dict(network.state_dict()), trainer.optimizers[0].state_dict(), torch.get_rng_state()


def test_training_is_the_same_bit_for_bit():
    callback = monitor(guarantees={"relu": {}, "nonsmooth_descent": {}}, every=1)
    assert differences(end_of_training([]), end_of_training([callback])) == []
    assert set(statuses(callback)) == {0.0}


def timeless(callback):
    return [{key: value for key, value in row.items() if "bounds/cost/" not in key} for row in callback.history]


@pytest.mark.parametrize("epoch", [3, 8])
def test_a_resumed_training_is_compared_with_its_own_start(tmp_path, epoch):
    def made():
        return monitor(guarantees={"relu": {}, "nonsmooth_descent": {}}, every=2)

    whole, resumed, path = made(), made(), tmp_path / f"epoch={epoch}.ckpt"
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
    scheduler = {"scheduler": lambda optimizer: StepLR(optimizer, 6)}
    inputs, targets = sphere()
    module = [Supervised(two_layer(width=60), reduction="sum", **scheduler) for _ in range(2)]
    data = loader_of(inputs, targets)
    quiet_trainer([whole, keep], max_epochs=12, enable_checkpointing=True).fit(module[0], data)
    quiet_trainer([resumed], max_epochs=12).fit(module[1], data, ckpt_path=path)
    assert measured_steps(resumed) == [0, 2, 4, 6, 8, 10, 12]
    assert differences(timeless(whole), timeless(resumed)) == []


def loader_of(inputs, targets):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), len(inputs))


def test_a_state_is_plain_enough_for_weights_only(tmp_path):
    callback = monitor(guarantees={}, every=5)
    descend(two_layer(width=20), [callback], steps=5).save_checkpoint(tmp_path / "end.ckpt")
    states = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]
    assert states[callback.state_key]["dynamics"]["gram"].shape == (8, 8)
    assert callback.state_key != TrajectoryMonitor().state_key


def test_an_equal_probe_shares_the_gram_matrix():
    grams = []

    class Looks(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            grams.extend(c.snapshot(trainer, pl_module, c.probe).gram for c in callbacks)

    probe = Probe(num_samples=8)
    callbacks = [JacobianSpectrum(probe, schedule=Schedule(at_end=True)), monitor(guarantees={}, probe=probe)]
    descend(two_layer(width=20), [*callbacks, Looks()])
    assert grams[0] is grams[1]


def test_the_page_names_everything_that_is_logged():
    callback = monitor(guarantees={"relu": {}}, every=5)
    logger = MemoryLogger()
    descend(two_layer(width=20), [callback], steps=5, logger=logger)
    section = re.search(r"With ``guarantees`` or ``predictions`` besides:\n(.*?)\n\n", callback.__doc__, re.DOTALL)[1]
    page = set(re.findall(r"``([a-z][a-z0-9_/]*[a-z0-9])``", section))
    names = {name for row in logger.records for name in row if name.startswith("trajectory/")}
    below = {re.sub("^(relu|linearized|fine_grained)/", "", name.removeprefix("trajectory/")) for name in names}
    old = {"distance", "relative_distance", "path_length", "norm"}
    assert {name for name in below if not name.startswith("layers/")} - old == page - old
    assert len([name for name in names if name.startswith("trajectory/fine_grained/")]) == 3


def test_the_kernel_of_the_followed_layers_alone_is_looked_at():
    callback = monitor(predictions=[], layers=["network.0"])
    descend(mlp(), [callback], samples(6), steps=10)
    assert callback.dynamics.gram.shape == (12, 12)
    expected = jacobian_by_loop(mlp(), samples(6)[0])[:, : 4 * 3 + 4]
    torch.testing.assert_close(callback.dynamics.gram, expected @ expected.T)


def test_figures_show_measured_predicted_and_guaranteed():
    callback = monitor(guarantees={"relu": {}}, every=5)
    descend(two_layer(width=20), [callback], steps=10)
    figures = callback.figures()
    assert set(figures) == {"trajectory"} | {
        f"trajectory/{name}" for name in ("residual", "travel", "kernel_drift", "stability")
    }
    labels = {line.get_label() for line in figures["trajectory/residual"].axes[0].lines}
    assert labels == {"measured", "linearized", "fine-grained", "relu envelope"}
