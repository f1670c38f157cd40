import pytest
import torch

from lightning_bounds.lightning import pl


def batches(loader):
    return [tuple(tensor.clone() for tensor in batch) for batch in loader]


def first_pixels(loader):
    return torch.cat([batch[0].flatten(1)[:, 0] for batch in loader])


class CountingModule(pl.LightningModule):
    """Learns on the triples, and keeps how many samples each validation loader gave in each epoch."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(in_features, num_classes, dtype=torch.float32)
        self.seen = {0: 0, 1: 0}

    def training_step(self, batch, batch_idx):
        inputs, labels, _ = batch
        return torch.nn.functional.cross_entropy(self.layer(inputs), labels)

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.seen[dataloader_idx] += len(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_samples_are_input_label_and_original_label(ready):
    datamodule = ready(label_noise=0.5)
    inputs, label, original_label = datamodule.train_dataloader().dataset[11]
    torch.testing.assert_close(inputs, datamodule.train_inputs[11])
    assert (label, original_label) == (datamodule.train_labels[11], datamodule.original_labels[11])


def test_training_order_is_shuffled_anew_in_every_epoch_and_complete(numbered_images, ready):
    loader = ready(unit_norm=False, batch_size=16).train_dataloader()
    first, second = first_pixels(loader), first_pixels(loader)
    expected = numbered_images().train_inputs.flatten(1)[:, 0]
    assert not torch.equal(first, expected)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sort().values, expected.sort().values, rtol=0, atol=0)


@pytest.mark.parametrize(("seed", "equal"), [(3, True), (4, False)])
def test_training_order_depends_on_the_seed_and_not_on_the_global_random_state(seed, equal, ready):
    order = first_pixels(ready(seed=3, batch_size=16).train_dataloader())
    torch.manual_seed(1234)
    assert torch.equal(order, first_pixels(ready(seed=seed, batch_size=16).train_dataloader())) == equal


def test_iterating_another_loader_does_not_move_the_training_order(ready):
    alone, observed = ready(batch_size=16), ready(batch_size=16)
    loader = observed.train_dataloader()
    first_pixels(observed.train_dataloader()), first_pixels(observed.val_dataloader()[1])
    assert torch.equal(first_pixels(loader), first_pixels(alone.train_dataloader()))


@pytest.mark.parametrize(("batch_size", "sizes"), [(16, [16, 16, 16, 12]), (60, [60]), (1000, [60]), (None, [60])])
def test_batches_cover_the_training_set_without_dropping_the_last(batch_size, sizes, ready):
    assert [len(batch[0]) for batch in ready(batch_size=batch_size).train_dataloader()] == sizes


def test_full_batch_is_the_training_set_in_its_order(ready):
    datamodule = ready(batch_size=None, label_noise=0.5)
    (batch,) = batches(datamodule.train_dataloader())
    torch.testing.assert_close(
        batch, (datamodule.train_inputs, datamodule.train_labels, datamodule.original_labels), rtol=0, atol=0
    )


@pytest.mark.parametrize("batch_size", [16, None])
def test_validation_loaders_are_the_test_set_and_the_training_set_in_order(batch_size, ready):
    datamodule = ready(batch_size=batch_size, label_noise=0.5, noisy_test=True)
    test, train = [
        tuple(torch.cat(column) for column in zip(*batches(loader), strict=True))
        for loader in datamodule.val_dataloader()
    ]
    torch.testing.assert_close(
        test, (datamodule.test_inputs, datamodule.test_labels, datamodule.test_original_labels), rtol=0, atol=0
    )
    torch.testing.assert_close(
        train, (datamodule.train_inputs, datamodule.train_labels, datamodule.original_labels), rtol=0, atol=0
    )


def test_test_loader_is_the_test_set_in_order(ready):
    datamodule = ready(batch_size=16)
    inputs = torch.cat([batch[0] for batch in datamodule.test_dataloader()])
    torch.testing.assert_close(inputs, datamodule.test_inputs, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [16, None])
def test_set_up_and_iteration_leave_the_global_random_states(rng_untouched, batch_size, ready):
    with rng_untouched():
        datamodule = ready(train_samples=40, label_noise=0.5, noisy_test=True, batch_size=batch_size)
        loaders = [datamodule.train_dataloader(), *datamodule.val_dataloader(), datamodule.test_dataloader()]
        sizes = [sum(len(batch[0]) for batch in loader) for loader in loaders]
    assert sizes == [40, 30, 40, 30]


def test_trainer_sees_both_validation_sets_in_every_epoch(tmp_path, ready):
    datamodule = ready(batch_size=16)
    model = CountingModule(datamodule.in_features, datamodule.num_classes)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, datamodule=datamodule)
    assert model.seen == {0: 3 * 30, 1: 3 * 60}
