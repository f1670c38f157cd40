"""Checks of numbers that the theorems share."""

import math

import pytest
import torch

from lightning_bounds.theory.arguments import check_count, check_not_negative, check_positive, check_probability


@pytest.mark.parametrize("number", [1, 0.5, 1e-300, torch.tensor(2.0)])
def test_positive_numbers_pass(number):
    check_positive("width", number)


@pytest.mark.parametrize("number", [0, -1, math.inf, math.nan, "3", None, True, torch.ones(2), torch.tensor(1j), 1j])
def test_what_is_not_a_positive_number_is_refused(number):
    with pytest.raises(ValueError, match="Expected `width` to be positive and finite, but got"):
        check_positive("width", number)


def test_a_positive_number_may_have_an_upper_limit():
    check_positive("zeta", 0.5, most=0.5)
    with pytest.raises(ValueError, match=r"positive and finite, at most 0\.5, but got 0\.6"):
        check_positive("zeta", 0.6, most=0.5)


@pytest.mark.parametrize("number", [-1e-300, math.inf, math.nan, None, False])
def test_what_is_negative_or_no_number_is_refused(number):
    check_not_negative("cutoff", 0)
    with pytest.raises(ValueError, match="Expected `cutoff` to be finite, 0 or more, but got"):
        check_not_negative("cutoff", number)


@pytest.mark.parametrize("number", [1, 0, 2.0, True, "2"])
def test_what_is_no_integer_of_at_least_two_is_refused(number):
    check_count("width", 2, least=2)
    with pytest.raises(ValueError, match="Expected `width` to be an integer of at least 2, but got"):
        check_count("width", number, least=2)


@pytest.mark.parametrize("number", [0, 1, -0.1, math.nan, None])
def test_what_is_no_probability_inside_zero_and_one_is_refused(number):
    check_probability("delta", 0.05)
    with pytest.raises(ValueError, match=r"Expected `delta` in \(0, 1\), the probability of failure, but got"):
        check_probability("delta", number)
