import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from digits_training import by_hand, digits, fit, loader, network, validations
from hydra.utils import instantiate
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import MultiStepLR
from torch.testing import assert_close

from lightning_bounds.lightning import pl
from lightning_bounds.models import Supervised, cross_entropy, least_squares, logistic

LOSSES = {"least_squares": least_squares, "cross_entropy": cross_entropy, "logistic": logistic}
KEYS = {
    "train/batch_loss",
    *("test/loss", "test/error", "test/clean_error"),
    *("train/loss", "train/error", "train/clean_error", "train/fitted_flips"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as these only wait for the threads, for seconds if the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "epochs"),
    [
        # The squared norm of the Jacobian goes down like 1 / K: [000], Theorem 3.2, has learning rates like K.
        (lambda K: partial(SGD, lr=0.25 * K), 120, 60),
        (lambda K: partial(SGD, lr=0.02 * K, momentum=0.9), 40, 20),
        (lambda _: partial(Adam, lr=0.02), 40, 20),
    ],
    ids=["gradient_descent", "momentum", "adam"],
)
@pytest.mark.parametrize(
    ("loss", "num_classes"), [("least_squares", 10), ("cross_entropy", 10), ("least_squares", 2), ("logistic", 2)]
)
def test_training_learns_the_digits_and_logs_what_the_weights_give_by_hand(
    loss, num_classes, optimizer, batch_size, epochs
):
    scheduler = partial(MultiStepLR, milestones=[epochs - 5])
    model = network(num_classes, activation="relu")
    module = Supervised(model, loss, optimizer=optimizer(model.output.out_features), scheduler=scheduler)
    before = by_hand(module, num_classes, LOSSES[loss])
    train, test = digits("train", num_classes), digits("test", num_classes)
    loaders = [loader(*test, batch_size=32), loader(*train)]
    records = fit(module, loader(*train, batch_size=batch_size), loaders, epochs, check_val_every_n_epoch=epochs // 2)
    after = by_hand(module, num_classes, LOSSES[loss])
    assert after["train/loss"] < before["train/loss"]
    assert after["train/clean_error"] < 0.75 * before["train/clean_error"]
    assert len(validations(records)) == 2
    assert_close(validations(records)[-1], after, rtol=1e-6, atol=1e-9)
    assert_close(module.optimizers().param_groups[0]["lr"], 0.1 * module.optimizers().param_groups[0]["initial_lr"])


def test_the_keys_that_the_docstring_lists_are_exactly_those_that_are_logged():
    records = fit(Supervised(network()))
    assert {name for record in records for name in record} == KEYS
    assert all(f"``{name}``" in Supervised.__doc__ for name in KEYS)


def test_every_epoch_is_logged_from_the_weights_of_its_end():
    values = []

    class Recorder(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            values.append(by_hand(pl_module))

    records = fit(Supervised(network()), epochs=3, callbacks=[Recorder()])
    assert_close(validations(records), values, rtol=1e-6, atol=1e-9)
    assert len({metrics["train/loss"] for metrics in values}) == 3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batch_loss_is_what_is_minimized_and_validation_is_per_sample_whatever_the_reduction(reduction):
    module = Supervised(network(), reduction=reduction, optimizer=partial(SGD, lr=1e-4))
    inputs, labels, original_labels = digits("train")
    before = least_squares(module(inputs), labels, reduction).item()
    records = fit(module, loader(inputs, labels, original_labels, batch_size=120), epochs=1)
    assert_close([record["train/batch_loss"] for record in records if "train/batch_loss" in record], [before])
    assert_close(validations(records)[-1], by_hand(module), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("num_sanity_val_steps", [1, -1])
def test_sanity_check_leaves_no_trace(num_sanity_val_steps):
    def logged(**arguments):
        torch.manual_seed(0)
        return fit(Supervised(network()), **arguments)

    assert logged(num_sanity_val_steps=num_sanity_val_steps) == logged(num_sanity_val_steps=0)


def test_validation_alone_logs_the_same_as_during_training():
    module = Supervised(network())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    loaders = [loader(*digits("test")), loader(*digits("train"))]
    (first, *_), (second, *_) = (trainer.validate(module, loaders, verbose=False) for _ in range(2))
    assert_close(first, {name: value for name, value in by_hand(module).items() if name in first}, rtol=1e-6, atol=1e-9)
    assert first == second


def test_one_loader_is_the_test_set_and_batches_of_two_have_no_original_labels():
    inputs, labels, _ = digits("test")
    records = fit(Supervised(network()), loader(*digits("train")[:2]), loader(inputs, labels), epochs=1)
    assert {name for record in records for name in record} == {"train/batch_loss", "test/loss", "test/error"}


def test_without_flipped_labels_no_flip_is_fitted():
    inputs, labels, _ = digits("train")
    loaders = [loader(*digits("test")), loader(inputs, labels, labels)]
    (metrics,) = validations(fit(Supervised(network()), validation=loaders, epochs=1))
    assert metrics["train/fitted_flips"] == 0
    assert metrics["train/clean_error"] == metrics["train/error"]


def test_real_targets_have_losses_but_no_errors():
    inputs, targets = digits("train")[0], torch.randn(120)
    module = Supervised(network(2), reduction="sum", optimizer=partial(SGD, lr=1e-4), classification=False)
    records = fit(module, loader(inputs, targets), [loader(inputs, targets), loader(inputs, targets)])
    assert set(validations(records)[-1]) == {"test/loss", "train/loss"}
    assert_close(validations(records)[-1]["train/loss"], least_squares(module(inputs), targets, "mean").item())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_batch_step_is_the_learning_rate_times_the_gradient_of_the_loss(reduction):
    module = Supervised(network(), reduction=reduction, optimizer=partial(SGD, lr=1e-3))
    inputs, labels, _ = digits("train")
    W = module.network.hidden.weight
    (gradient,) = torch.autograd.grad(least_squares(module(inputs), labels, reduction), W)
    expected = W.detach() - 1e-3 * gradient
    fit(module, loader(inputs, labels, batch_size=120), epochs=1)
    assert_close(W.detach(), expected)


@pytest.mark.parametrize("batch_size", [30, 50])
def test_accumulated_batches_of_any_size_make_the_full_batch_step_of_the_summed_loss(batch_size):
    def weights(**arguments):
        module = Supervised(network(), reduction="sum", optimizer=partial(SGD, lr=1e-3))
        fit(module, loader(*digits("train"), batch_size=arguments.pop("batch_size")), epochs=2, **arguments)
        return module.network.hidden.weight.detach()

    accumulated = weights(batch_size=batch_size, accumulate_grad_batches=math.ceil(120 / batch_size))
    assert_close(accumulated, weights(batch_size=120))


def test_bfloat16_autocast_trains_and_logs_what_the_same_autocast_gives_by_hand():
    float32 = partial(digits, dtype=torch.float32)
    module = Supervised(network().float())
    loaders = [loader(*float32("test")), loader(*float32("train"))]
    records = fit(module, loader(*float32("train")), loaders, epochs=5, precision="bf16-mixed")
    inputs, labels, _ = float32("train")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = module(inputs)
    assert outputs.dtype == torch.bfloat16
    assert_close(
        validations(records)[-1]["train/loss"], least_squares(outputs, labels, "mean").item(), rtol=1e-2, atol=0
    )
    assert validations(records)[-1]["train/loss"] < validations(records)[0]["train/loss"]


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_summed_loss_is_the_sum_over_the_samples_whatever_the_reduction(loss, reduction):
    K = 1 if loss == "logistic" else 3
    outputs, labels = torch.randn(6, K), torch.randint(max(K, 2), (6,))
    module = Supervised(network(), loss, reduction)
    assert_close(module.summed_loss(outputs, labels), LOSSES[loss](outputs, labels, "sum"))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_of_your_own_is_taken_at_its_word_about_its_reduction(reduction):
    outputs, labels = torch.randn(6, 3), torch.randint(3, (6,))
    module = Supervised(network(), torch.nn.CrossEntropyLoss(reduction=reduction), reduction)
    assert_close(module.loss(outputs, labels), cross_entropy(outputs, labels, reduction))
    assert_close(module.summed_loss(outputs, labels), cross_entropy(outputs, labels, "sum"))


def test_gradient_of_the_summed_loss_is_the_residual_for_least_squares():
    outputs, labels = torch.randn(6, 3, requires_grad=True), torch.randint(3, (6,))
    (gradient,) = torch.autograd.grad(Supervised(network()).summed_loss(outputs, labels), outputs)
    assert_close(gradient, outputs.detach() - torch.nn.functional.one_hot(labels, 3))


@pytest.mark.parametrize("train_output", [False, True])
def test_only_trainable_parameters_reach_the_optimizer_and_only_they_move(train_output):
    module = Supervised(network(train_output=train_output))
    start = {name: parameter.detach().clone() for name, parameter in module.network.named_parameters()}
    fit(module, epochs=1)
    moved = {name for name, parameter in module.network.named_parameters() if not torch.equal(parameter, start[name])}
    assert moved == {"hidden.weight", "output.weight"} if train_output else {"hidden.weight"}
    assert len(module.optimizers().param_groups[0]["params"]) == len(moved)


def test_any_module_can_be_trained():
    module = Supervised(torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 10)))
    records = fit(module)
    module.eval()
    assert_close(validations(records)[-1], by_hand(module), rtol=1e-6, atol=1e-9)


def test_checkpoint_holds_the_network_and_nothing_of_the_metrics():
    module = Supervised(network())
    fit(module, epochs=1)
    assert list(module.state_dict()) == ["network.hidden.weight", "network.output.weight"]


def test_hydra_builds_optimizer_and_scheduler_as_partials():
    config = {
        "_target_": "lightning_bounds.models.Supervised",
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 3},
    }
    (optimizer,), (scheduler,) = instantiate(config, network=network()).configure_optimizers()
    assert optimizer.defaults["lr"] == 0.5
    assert scheduler.step_size == 3


def test_a_network_without_trainable_parameters_is_refused_before_training():
    module = Supervised(network().requires_grad_(False))
    with pytest.raises(ValueError, match="with trainable parameters, but got TwoLayerNetwork"):
        fit(module)
    assert module.global_step == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "least_square"}, "'logistic', but got 'least_square'; did you mean 'least_squares'"),
        ({"reduction": "none"}, "Expected `reduction` to be one of 'mean', 'sum', but got 'none'"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Supervised(network(), **arguments)


@pytest.mark.parametrize(("parts", "size"), [(1, "list of length 1"), (4, "list of length 4")])
def test_batches_that_are_no_samples_are_refused(parts, size):
    with pytest.raises(ValueError, match=rf"Expected a batch `\(inputs, labels\)` or .* but got a {size}"):
        fit(Supervised(network()), loader(*[torch.zeros(4, 64)] * parts))


def test_a_batch_that_is_a_tensor_is_refused():
    with pytest.raises(ValueError, match="but got a Tensor; change what the dataset returns"):
        Supervised(network()).training_step(torch.zeros(2, 64), 0)


def test_a_third_validation_loader_is_refused():
    with pytest.raises(ValueError, match="but got a batch of loader 2; pass at most two"):
        fit(Supervised(network()), validation=[loader(*digits("test"))] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_module_belongs_to_the_lightning_package_that_was_imported_first(package):
    script = f"""
import {package} as L, torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_bounds.models import Supervised, TwoLayerNetwork
module = Supervised(TwoLayerNetwork(3, width=4, out_features=2))
assert isinstance(module, L.LightningModule)
loader = DataLoader(TensorDataset(torch.randn(8, 3), torch.arange(8) % 2), batch_size=4)
trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(module, loader, [loader, loader])
assert set(trainer.callback_metrics) == {{
    "train/batch_loss", "train/loss", "train/error", "test/loss", "test/error"}}, trainer.callback_metrics
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, capture_output=True)
