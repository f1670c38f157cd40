"""Experiments of the papers end with what their callbacks conclude."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment=nearly_linear", "trainer.max_epochs=2"], ["nearly_linear/bounds", "sigma_known"]),
        (["experiment=overparameterization", "trainer.max_epochs=2", "model.width=200"], ["trajectory/conditions"]),
        (["experiment=batch_norm_margin", "trainer.max_epochs=2", "model.width=64"], ["batch_norm_margin/conditions"]),
        (
            ["experiment=fine_grained", "trainer.max_epochs=2", "model.width=200"],
            ["fine_grained/generalization_bound/conditions"],
        ),
        (
            ["data=linear_model", "+training.classification=false", "~callbacks.margins", "trainer.max_epochs=2"],
            ["Losses", "first", "last"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_conclusions_are_printed(overrides, said, train_into):
    output = train_into("logger=none", *overrides).output
    assert [text for text in said if text not in output] == []
    assert "nan" not in output.split()
