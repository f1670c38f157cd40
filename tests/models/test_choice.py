import pytest

from lightning_bounds.models.choice import chosen


def test_a_known_name_stands_for_its_entry():
    assert chosen("loss", "b", {"a": 1, "b": 2}) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tahn", r"Expected `activation` to be one of 'relu', 'tanh', but got 'tahn'; did you mean 'tanh'\?"),
        ("qqqq", r"Expected `activation` to be one of 'relu', 'tanh', but got 'qqqq'; choose one of them\."),
        (["relu"], r"but got \['relu'\]"),
        (None, "but got None"),
    ],
)
def test_an_unknown_name_is_refused_with_all_choices_and_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        chosen("activation", name, {"relu": 1, "tanh": 2})
