"""How a theorem reports itself: terms that add up, conditions that are decided only where they can be."""

import json
import math

import pytest

from lightning_bounds.theory.bound import Bound, Condition, Term, condition, conditions_table, text_table


def toy(**changes):
    given = {
        "name": "toy",
        "value": 0.7,
        "parts": (Term("fit", 0.5, "1/n Σ loss", "training longer"), Term("confidence", 0.2)),
        "conditions": (condition("width", 10, ">=", 5),),
        "confidence": 0.9,
        "source": "nowhere, Theorem 1",
        "assumptions": {"factor": 2.0},
        "caveats": ("weights are independent of the sample",),
    }
    return Bound(**{**given, **changes})


# Conditions.


@pytest.mark.parametrize(
    ("actual", "relation", "required", "holds"),
    [
        (1, "<=", 1, True), (1, "<", 1, False), (1, ">=", 1, True), (1, ">", 1, False), (1, "==", 1, True),
        (2, "<=", 1, False), (0.5, "<", 1, True), (0.5, ">=", 1, False), (2, ">", 1, True), (2, "==", 1, False),
        (5, "<=", math.inf, True), (5, ">=", math.inf, False), (math.inf, "<", math.inf, False),
        (-1, ">", 0, False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_the_theorem_does(actual, relation, required, holds):
    item = condition("x", actual, relation, required)
    assert item.holds is holds
    assert item.ratio is None
    assert item.status == ("holds" if holds else "violated")


@pytest.mark.parametrize(
    ("actual", "relation", "required", "holds"),
    [
        (1 + 5e-7, "==", 1, True), (1 - 5e-7, "==", 1, True), (1 + 2e-6, "==", 1, False),
        (1 + 5e-7, "<=", 1, True), (1 + 2e-6, "<=", 1, False), (1 - 5e-7, ">=", 1, True), (1 - 2e-6, ">=", 1, False),
        (-1 - 5e-7, ">=", -1, True), (-1 + 5e-7, "<=", -1, True), (7, ">=", math.inf, False),
    ],
)  # fmt: skip
def test_rounding_is_forgiven_as_far_as_it_is_allowed(actual, relation, required, holds):
    assert condition("x", actual, relation, required, rtol=1e-6).holds is holds


@pytest.mark.parametrize(
    ("actual", "relation", "required", "ratio"),
    [
        (1000, ">=", 400, 2.5), (100, ">=", 400, 0.25), (10, "<=", 5, 0.5), (10, "<", 40, 4.0),
        (10, ">=", 0, math.inf), (10, ">=", math.inf, 0.0), (0, "<=", 5, math.inf), (math.inf, "<=", 5, 0.0),
        (math.inf, ">=", 5, math.inf), (10, "<=", 0, 0.0), (10, "<=", math.inf, math.inf),
        (math.inf, ">=", math.inf, 0.0),
    ],
)  # fmt: skip
def test_hidden_factors_leave_a_condition_undecided_and_tell_the_largest_one(actual, relation, required, ratio):
    item = condition("x", actual, relation, required, hidden=True)
    assert item.holds is None
    assert item.status == "unknown"
    assert item.ratio == ratio


@pytest.mark.parametrize("relation", [">=", "<="])
@pytest.mark.parametrize(("factor", "holds"), [(2.4, True), (2.5, True), (2.6, False)])
def test_hidden_factors_that_are_given_decide(relation, factor, holds):
    # actual >= C required, or C actual <= required.
    pair = (1000, 400) if relation == ">=" else (400, 1000)
    item = condition("x", pair[0], relation, pair[1], hidden=True, factor=factor)
    assert item.holds is holds
    assert item.ratio == 2.5


def test_a_strict_relation_does_not_hold_at_the_largest_factor():
    assert condition("x", 1000, ">", 400, hidden=True, factor=2.5).holds is False


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, "=>", 2), {}, "relation among"),
        ((1, "==", 2), {"hidden": True}, "no equality if hidden"),
        ((math.nan, "<=", 2), {}, "numbers to compare for 'x'"),
        ((1, "<=", math.nan), {}, "numbers to compare for 'x'"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        condition("x", *arguments, **options)


# Bounds.


def test_terms_keep_their_order_and_add_up():
    bound = toy()
    assert list(bound.terms.items()) == [("fit", 0.5), ("confidence", 0.2)]
    assert sum(bound.terms.values()) == pytest.approx(bound.value)


@pytest.mark.parametrize("value", [0.7000001, 0.0, -0.7, math.inf])
def test_terms_that_do_not_add_up_are_refused(value):
    with pytest.raises(ValueError, match="add up"):
        toy(value=value)


def test_terms_of_no_sum_need_not_add_up():
    assert toy(value=0.1, is_sum=False).value == 0.1


def test_infinite_terms_make_an_infinite_bound_that_is_vacuous():
    bound = toy(value=math.inf, parts=(Term("fit", 0.5), Term("complexity", math.inf)))
    assert bound.value == math.inf
    assert bound.vacuous


@pytest.mark.parametrize("make", [lambda: toy(value=math.nan, parts=()), lambda: Term("fit", math.nan)])
def test_nan_is_no_number(make):
    with pytest.raises(ValueError, match="got NaN"):
        make()


@pytest.mark.parametrize(
    ("statuses", "valid"), [((True, None), True), ((True, False), False), ((None, False), False), ((), True)]
)
def test_conditions_that_are_not_known_do_not_make_a_bound_invalid(statuses, valid):
    conditions = [Condition("x", 1.0, "<=", 2.0, holds) for holds in statuses]
    assert toy(conditions=conditions).valid is valid


@pytest.mark.parametrize(("value", "trivial", "vacuous"), [(1.0, 1.0, True), (0.99, 1.0, False), (1.5, 2.0, False)])
def test_a_bound_is_vacuous_from_its_trivial_value_on(value, trivial, vacuous):
    assert Bound("toy", value, trivial=trivial).vacuous is vacuous


def test_values_are_neither_clipped_nor_rounded():
    assert Bound("toy", 17.25, confidence=-3.0).value == 17.25
    assert Bound("toy", -0.5).value == -0.5


def test_report_is_plain_data():
    report = json.loads(json.dumps(toy().to_dict()))
    assert report["terms"] == {"fit": 0.5, "confidence": 0.2}
    assert report["conditions"][0] == {
        "name": "width", "actual": 10.0, "relation": ">=", "required": 5.0, "holds": True, "ratio": None, "note": "",
        "status": "holds",
    }  # fmt: skip
    assert (report["value"], report["valid"], report["vacuous"], report["confidence"]) == (0.7, True, False, 0.9)


def test_text_says_everything_that_the_bound_says():
    text = str(toy(conditions=[condition("width", 10, ">=", 50), condition("depth", 3, ">=", 2, hidden=True)]))
    assert text.startswith("toy: 0.7 (not vacuous, conditions violated)\n  nowhere, Theorem 1\n  confidence 0.9\n")
    assert "training longer" in text
    assert "violated" in text
    assert "unknown, for factors up to 1.5" in text
    assert text.endswith("  assumed: factor = 2\n  caveat: weights are independent of the sample")


def test_conditions_may_be_texts():
    rows = conditions_table([Condition("initialization", "pretrained", "", "Gaussian", None, note="not a number")])
    assert rows[1].split() == ["initialization", "pretrained", "Gaussian", "unknown", "not", "a", "number"]


def test_tables_align_their_columns_and_leave_empty_ones_out():
    assert text_table(("a", "b", "c"), [("1", "", "22"), ("333", "", "4")]) == ["  a    c", "  1    22", "  333  4"]
    assert text_table(("a",), []) == []


def test_bounds_cannot_be_changed():
    with pytest.raises(AttributeError):
        toy().value = 0.0
    with pytest.raises(TypeError):
        toy().terms["fit"] = 0.0
