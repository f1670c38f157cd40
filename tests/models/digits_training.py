"""What the tests of ``Supervised`` share: the digits with flipped labels, training, and the metrics by hand."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_bounds.lightning import pl
from lightning_bounds.models import TwoLayerNetwork, least_squares
from lightning_bounds.report.memory import MemoryLogger


def digits(split, num_classes=10, dtype=torch.float64):
    """Inputs, labels of which a third is flipped, and original labels: 120 for training and 75 for the test."""
    inputs, classes = map(torch.tensor, load_digits(n_class=num_classes, return_X_y=True))
    part = slice(0, 120) if split == "train" else slice(120, 195)
    inputs, original_labels = inputs[part].to(dtype) / 16, classes[part].long()
    labels = original_labels.clone()
    labels[::3] = (labels[::3] + 1) % num_classes
    return inputs, labels, original_labels


def loader(*tensors, batch_size=40, shuffle=False):
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=shuffle)


def network(num_classes=10, **arguments):
    arguments = {"in_features": 64, "width": 50, "out_features": num_classes if num_classes > 2 else 1, **arguments}
    return TwoLayerNetwork(**{"activation": "softplus", **arguments}, seed=0)


def fit(module, train=None, validation=None, epochs=2, **arguments):
    """Trains, and returns what was logged, one record per call of the logger."""
    logger = MemoryLogger()
    trainer = pl.Trainer(
        **{"max_epochs": epochs, "num_sanity_val_steps": 0, "log_every_n_steps": 1, **arguments},
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = loader(*digits("train"), shuffle=True) if train is None else train
    # The batch size of the second does not divide the number of samples: averages must be weighted.
    validation = (
        [loader(*digits("test"), batch_size=32), loader(*digits("train"))] if validation is None else validation
    )
    trainer.fit(module, train, validation)
    return [
        {name: value for name, value in record.items() if name not in ("step", "epoch")} for record in logger.records
    ]


def validations(records):
    return [record for record in records if "test/loss" in record]


def by_hand(module, num_classes=10, loss=least_squares):
    """All that is logged after the last epoch, from the weights and a loop over single samples."""
    values = {}
    for split in ("test", "train"):
        inputs, labels, original_labels = digits(split, num_classes)
        with torch.no_grad():
            outputs = module.network(inputs)
        losses = [float(loss(outputs[i : i + 1], labels[i : i + 1])) for i in range(len(inputs))]
        # Not the largest output, but the strictly largest: with output weights of one size and few active hidden units
        # two outputs can be exactly equal.
        outputs = torch.cat([-outputs, outputs], dim=1) if outputs.shape[1] == 1 else outputs
        largest = outputs == outputs.amax(dim=1, keepdim=True)
        predicted = [int(row.nonzero()) if row.sum() == 1 else None for row in largest]
        samples = range(len(inputs))
        flipped = [i for i in samples if labels[i] != original_labels[i]]
        values |= {
            f"{split}/loss": sum(losses) / len(inputs),
            f"{split}/error": sum(int(predicted[i] != labels[i]) for i in samples) / len(inputs),
            f"{split}/clean_error": sum(int(predicted[i] != original_labels[i]) for i in samples) / len(inputs),
            f"{split}/fitted_flips": sum(int(predicted[i] == labels[i]) for i in flipped) / len(flipped),
        }
    del values["test/fitted_flips"]
    return values
