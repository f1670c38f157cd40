"""A schedule fires once for every moment asked for, also when steps are passed over, and says when it never would."""

import dataclasses
from itertools import pairwise

import pytest
from omegaconf import ListConfig

from lightning_bounds import Schedule


def silent(**rules):
    return Schedule(at_init=False, at_end=False, **rules)


def fired(schedule, moments):
    """The moments, in the order of training, at which a step rule fires."""
    return [now for last, now in pairwise(moments) if schedule.fires_at_step(last, now)]


def steps_due(limit, every=None, steps=(), per_decade=None):
    """All steps asked for up to a limit, from the definition."""
    due = {step for step in range(1, limit + 1) if every and step % every == 0}
    due |= {step for step in steps if step <= limit}
    if per_decade:
        due |= {step for j in range(20 * per_decade) if (step := round(10 ** (j / per_decade))) <= limit}
    return due


RULES = {
    "every_step": {"every_n_steps": 1},
    "every_7": {"every_n_steps": 7},
    "listed": {"steps": (1, 5, 6, 90, 1000)},
    "unordered_and_repeated": {"steps": (40, 3, 40, 12)},
    "one_per_decade": {"steps_per_decade": 1},
    "ten_per_decade": {"steps_per_decade": 10},
    "union": {"every_n_steps": 7, "steps": (14, 15, 28), "steps_per_decade": 3},
}
NAMES = {"every_n_steps": "every", "steps": "steps", "steps_per_decade": "per_decade"}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("jump", [1, 2, 3, 10, 64])
def test_a_moment_fires_exactly_if_a_step_due_lies_after_the_last_and_up_to_it(rules, jump):
    moments = list(range(0, 201, jump))
    due = steps_due(200, **{NAMES[name]: value for name, value in rules.items()})
    expected = [now for last, now in pairwise(moments) if any(last < step <= now for step in due)]
    assert fired(silent(**rules), moments) == expected


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_steps_of_one_fire_at_the_steps_due_and_nowhere_else(rules):
    due = steps_due(1500, **{NAMES[name]: value for name, value in rules.items()})
    assert fired(silent(**rules), range(1501)) == sorted(due)


@pytest.mark.parametrize("per_decade", [1, 2, 3, 5, 10, 20])
def test_log_spaced_steps_equal_a_naive_list(per_decade):
    expected = sorted({round(10 ** (j / per_decade)) for j in range(4 * per_decade + 1)})
    assert fired(silent(steps_per_decade=per_decade), range(10_001)) == expected
    assert {1, 10, 100, 1000, 10_000} <= set(expected)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("now", [0, 4, 5])
def test_a_moment_that_is_not_after_the_last_never_fires(rules, now):
    assert not silent(**rules).fires_at_step(last=5, now=now)


def test_one_jump_over_many_steps_due_fires_once():
    assert fired(silent(every_n_steps=2, steps=(3, 5, 7), steps_per_decade=5), [0, 1000, 1001]) == [1000]


def test_a_step_due_by_several_rules_fires_once():
    assert fired(silent(every_n_steps=10, steps=(10, 10), steps_per_decade=1), [9, 10, 10, 11]) == [10]


@pytest.mark.parametrize("schedule", [Schedule(), silent(every_n_epochs=1)])
def test_without_a_step_rule_no_step_fires(schedule):
    assert fired(schedule, range(200)) == []


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (7, []), (None, [])])
def test_every_nth_epoch_fires_at_its_end(every, expected):
    schedule = Schedule(every_n_epochs=every)
    assert [done for done in range(7) if schedule.fires_at_epoch(done)] == expected


@pytest.mark.parametrize(
    ("rules", "max_epochs", "max_steps"),
    [
        ({"every_n_epochs": 20}, 20, -1),
        ({"every_n_epochs": 20}, None, -1),
        ({"every_n_epochs": 20}, -1, 5),
        ({"every_n_epochs": 20}, 20, 5),
        ({"every_n_steps": 20}, 1, 20),
        ({"every_n_steps": 20}, None, -1),
        ({"every_n_steps": 20}, 3, -1),
        ({"steps": (500, 20)}, -1, 20),
        ({"steps_per_decade": 3}, 1, 1),
        ({"every_n_epochs": 50, "every_n_steps": 10}, 20, 10),
        ({"every_n_epochs": 5, "every_n_steps": 1000}, 5, 10),
    ],
)
def test_a_schedule_that_may_fire_within_the_limits_is_accepted(rules, max_epochs, max_steps):
    silent(**rules).check_reached(max_epochs, max_steps)


@pytest.mark.parametrize("also", [{"at_init": True}, {"at_end": True}])
@pytest.mark.parametrize(("max_epochs", "max_steps"), [(0, 0), (1, 1), (None, 0), (-1, 1)])
def test_the_first_and_the_last_moment_are_always_reached(also, max_epochs, max_steps):
    Schedule(**{"at_init": False, "at_end": False, **also}, every_n_epochs=50).check_reached(max_epochs, max_steps)


@pytest.mark.parametrize(
    ("rules", "max_epochs", "max_steps", "limits"),
    [
        ({"every_n_epochs": 50}, 20, -1, "20 epochs"),
        ({"every_n_epochs": 50}, 20, 1000, "20 epochs and 1000 steps"),
        ({"every_n_epochs": 1}, 0, -1, "0 epochs"),
        ({"every_n_steps": 50}, -1, 49, "49 steps"),
        ({"every_n_steps": 50}, None, 49, "49 steps"),
        ({"every_n_steps": 50}, 3, 49, "3 epochs and 49 steps"),
        ({"steps": (70, 60)}, -1, 59, "59 steps"),
        ({"steps_per_decade": 1}, None, 0, "0 steps"),
        ({"every_n_epochs": 9, "every_n_steps": 9, "steps": (9,)}, 8, 8, "8 epochs and 8 steps"),
    ],
)
def test_a_schedule_that_never_fires_is_refused_with_the_limits(rules, max_epochs, max_steps, limits):
    with pytest.raises(ValueError, match=rf"fires within {limits}, but Schedule\(at_init=False.*; train longer or"):
        silent(**rules).check_reached(max_epochs, max_steps)


@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_steps", "steps_per_decade"])
@pytest.mark.parametrize("value", [0, -3])
def test_numbers_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}` of 1 or more, but got {value}"):
        Schedule(**{name: value})


@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_steps", "steps_per_decade"])
@pytest.mark.parametrize("value", [1.0, "10", True, [3]])
def test_numbers_that_are_not_whole_are_refused(name, value):
    with pytest.raises(TypeError) as caught:
        Schedule(**{name: value})
    assert str(caught.value) == f"Expected `{name}` in whole numbers, 1 or more, but got {value!r}."


@pytest.mark.parametrize("steps", ["12", 12, {3, 4}, None, 2.5])
def test_steps_that_are_no_sequence_are_refused(steps):
    with pytest.raises(TypeError) as caught:
        Schedule(steps=steps)
    assert str(caught.value) == f"Expected `steps` to be a sequence of steps, but got {steps!r}."


@pytest.mark.parametrize(("steps", "error"), [([1, 0], ValueError), ([-1], ValueError)])
def test_steps_below_one_are_refused(steps, error):
    with pytest.raises(error, match=f"Expected `steps` of 1 or more, but got {steps[-1]}"):
        Schedule(steps=steps)


@pytest.mark.parametrize("step", [1.5, "3", None, False])
def test_steps_that_are_not_whole_are_refused(step):
    with pytest.raises(TypeError) as caught:
        Schedule(steps=[2, step])
    assert str(caught.value) == f"Expected `steps` in whole numbers, 1 or more, but got {step!r}."


@pytest.mark.parametrize("rules", [{}, {"steps": []}])
def test_a_schedule_that_asks_for_nothing_is_refused(rules):
    with pytest.raises(ValueError, match="fires, but nothing is asked for; set `every_n_epochs`"):
        silent(**rules)


@pytest.mark.parametrize("steps", [[1, 2], range(1, 3), ListConfig([1, 2])], ids=lambda steps: type(steps).__name__)
def test_schedules_of_equal_rules_are_equal_and_hash_alike(steps):
    schedule, from_tuple = Schedule(steps=steps), Schedule(steps=(1, 2))
    assert schedule == from_tuple
    assert hash(schedule) == hash(from_tuple)
    assert schedule != Schedule(steps=[2, 1, 3])


def test_a_schedule_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule().every_n_steps = 3
