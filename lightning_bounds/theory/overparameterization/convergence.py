"""Gradient descent on the hidden layer fits any labels: the theorems for smooth activations and for ReLU."""

import math
from dataclasses import replace

from torch import Tensor

from lightning_bounds.theory.arithmetic import over
from lightning_bounds.theory.bound import condition
from lightning_bounds.theory.gaussian.activations import Elementwise
from lightning_bounds.theory.guarantee import Guarantee
from lightning_bounds.theory.overparameterization.conditioning import neural_eigenvalue, separation_eigenvalue_bound
from lightning_bounds.theory.overparameterization.initialization import initial_residual_bound
from lightning_bounds.theory.overparameterization.khatri_rao import separation
from lightning_bounds.theory.overparameterization.setting import (
    GRID,
    INITIALIZATION,
    checked_bound,
    checked_eigenvalue,
    setting,
)

# The proof of Theorem 6.3: (24 √2)² 200³.
RELU_WIDTH_CONSTANT = 9.216e9


def smooth_guarantee(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    activation: str | Elementwise,
    step_fraction: float = 1.0,
    tolerance: float = 1.0,
    smallest_eigenvalue: float | None = None,
    width_factor: float | None = None,
) -> Guarantee:
    """Convergence of gradient descent for a smooth activation.

    With ``B = max(sup |φ'|, sup |φ''|, |φ(0)|)``, step size ``η = η̄ n / (2 B² ‖y‖² ‖X‖²)`` and ``√(kd)`` of the order
    of ``B² (1 + δ) κ̃ n``: ``|r_t|² <= (1 - q)^t |r_0|²`` with ``q = η̄ λ / (32 B² ‖X‖²)``,
    ``a |W_t - W_0|_F + |r_t| <= |r_0|`` with ``a = ‖y‖ √(λ/(128 n))``, and a path of at most ``|r_0| / a``. The paper
    prints the rate for ``|r|`` and 32 in place of 128, which its proof does not give.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of norm 1.
        labels: ``y``, shape ``(n,)``.
        width: ``k``, hidden units; for an odd one the paper sets one output weight to 0.
        activation: ``φ``, a name or an entrywise function. ReLU has no bounded ``φ''``: its ``B`` is infinite.
        step_fraction: ``η̄``, at most 1.
        tolerance: ``δ``: the start is at most ``‖y‖ (1 + (1 + δ) B)`` off.
        smallest_eigenvalue: A lower bound of ``λ(X)`` to use in its place; Theorem 2.1 is
            ``neural_eigenvalue_bound(inputs, activation)``.
        width_factor: ``c`` of the width condition, which the paper hides. Its proof allows 64 if ``B >= 1``.

    Raises:
        ValueError: If shapes do not match, a number is out of range, or the activation is unknown.

    References:
        Oymak & Soltanolkotabi 2019, Theorems 2.1 and 6.2 (errata B1, B2, B3, B9).

    Example:
        >>> import torch
        >>> guarantee = smooth_guarantee(torch.eye(4), torch.ones(4), width=10**6, activation="softplus")
        >>> round(guarantee.learning_rate, 3), guarantee.valid
        (0.5, True)
    """
    given = setting(inputs, labels, width, step_fraction, tolerance)
    B = checked_bound(activation)
    lam = checked_eigenvalue(smallest_eigenvalue)
    lam = neural_eigenvalue(inputs, activation) if lam is None else lam
    n, norm = given.num_samples, given.spectral_norm
    parameters = math.sqrt(width * given.num_features)
    kappa_n = over(math.sqrt(given.num_features * n) * norm, lam)
    rate = step_fraction * lam / (32 * B**2 * norm**2)
    initial = initial_residual_bound(n, norm, given.label_norm, B, tolerance)
    # B2: α/4 with the α of the proof, ‖y‖ √(λ/(8n)), is √(λ/(128 n)); the print has √(λ/(32 n)).
    coefficient, printed = (given.distance_coefficient(lam, divisor) for divisor in (128, 32))
    required = B**2 * (1 + tolerance) * kappa_n
    # B9: what the proof needs, Eq. (6.18), whether or not B >= 1.
    explicit = 32 * B * (1 + (1 + tolerance) * B) * kappa_n
    exponent = -(tolerance**2) / (2 * norm**2)
    return Guarantee(
        name="gradient descent, smooth activation",
        source="Oymak & Soltanolkotabi 2019, Theorems 2.1 and 6.2 (errata B1, B2, B3, B9)",
        learning_rate=given.step(2 * B**2),
        rate=rate,  # B1: Eq. (6.9) gives it for the squared residual.
        printed_rate=rate,
        initial_residual=initial.value,
        distance_coefficient=coefficient,
        printed_distance_coefficient=printed,
        path_length=over(initial.value, coefficient),
        printed_path_length=over(initial.value, printed),
        probability=1 - 1 / n - math.exp(exponent * n),
        printed_probability=1 - 1 / n - math.exp(exponent),  # B3: Theorem 2.1 lacks the n.
        conditions=[
            *given.common_conditions(lam),
            condition("B", B, "<", math.inf, note="bounded φ' and φ''"),
            condition(
                "sqrt(k d)", parameters, ">=", required, hidden=True, factor=width_factor, note="Eq. (6.2), c hidden"
            ),
            condition("sqrt(k d), explicit", parameters, ">=", explicit, note="Eq. (6.18)"),
            given.initial_width(lam, B),
        ],
        caveats=[INITIALIZATION] if isinstance(activation, str) else [INITIALIZATION, GRID],
    )


def relu_guarantee(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    step_fraction: float = 1.0,
    tolerance: float = 1.0,
    smallest_eigenvalue: float | None = None,
    width_factor: float | None = None,
) -> Guarantee:
    """Convergence of gradient descent for ReLU.

    With the step size ``η = η̄ n / (3 ‖y‖² ‖X‖²)`` and ``k`` of the order of ``(1 + δ)² n ‖X‖⁶ / λ⁴``:
    ``|r_t| <= (1 - η̄ λ / (24 ‖X‖²))^t |r_0|``, and ``‖y‖ √(λ/(72 n)) |W_t - W_0|_F + |r_t| <= |r_0|``. The proof bounds
    the length of the path in the same way (Eq. (G.2) with Lemma G.3), by ``√(72 n/λ) |r_0| / ‖y‖``.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of norm 1.
        labels: ``y``, shape ``(n,)``.
        width: ``k``, hidden units.
        step_fraction: ``η̄``, at most 1.
        tolerance: ``δ``: the start is at most ``2 (1 + δ) ‖y‖`` off.
        smallest_eigenvalue: A lower bound of ``λ(X)`` to use in its place; Theorem 2.3 is
            ``neural_eigenvalue_bound(inputs, "relu")``.
        width_factor: ``C`` of the width condition, which the paper hides. Its proof gives 9.216e9.

    Raises:
        ValueError: If shapes do not match, or a number is out of range.

    References:
        Oymak & Soltanolkotabi 2019, Theorems 2.3, 6.3 and 6.13 (errata B3, B6, B10).

    Example:
        >>> import torch
        >>> guarantee = relu_guarantee(torch.eye(4), torch.ones(4), width=1000)
        >>> round(guarantee.printed_rate, 4), guarantee.valid
        (0.0208, False)
    """
    given = setting(inputs, labels, width, step_fraction, tolerance)
    lam = checked_eigenvalue(smallest_eigenvalue)
    lam = neural_eigenvalue(inputs, "relu") if lam is None else lam
    n, norm = given.num_samples, given.spectral_norm
    printed_rate = step_fraction * lam / (24 * norm**2)
    coefficient = given.distance_coefficient(lam, 72)
    # Lemma 6.12 with B = 1 and 2δ in the place of δ.
    initial = initial_residual_bound(n, norm, given.label_norm, tolerance=2 * tolerance).value
    required = over((1 + tolerance) ** 2 * n * norm**6, lam**4)
    failure = math.exp(-(tolerance**2) * n / norm**2)
    return Guarantee(
        name="gradient descent, ReLU",
        source="Oymak & Soltanolkotabi 2019, Theorems 2.3 and 6.3 (errata B3, B6, B10)",
        learning_rate=given.step(3),
        rate=printed_rate * (2 - printed_rate),
        printed_rate=printed_rate,
        initial_residual=initial,
        distance_coefficient=coefficient,
        printed_distance_coefficient=coefficient,
        path_length=over(initial, coefficient),
        probability=1 - 2 / n - failure,
        printed_probability=1 - 1 / n - failure - n * math.exp(-n),  # B3: Theorem 2.3, which 6.3 does not support.
        conditions=[
            *given.common_conditions(lam),
            condition("width", width, ">=", required, hidden=True, factor=width_factor, note="Eq. (6.3), C hidden"),
            condition("width, explicit", width, ">=", RELU_WIDTH_CONSTANT * required, note="Eq. (6.3), C of the proof"),
            given.initial_width(lam, 1.0),
        ],
        caveats=[INITIALIZATION],
    )


def separated_guarantee(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    step_fraction: float = 1.0,
    tolerance: float = 1.0,
    width_factor: float | None = None,
) -> Guarantee:
    """Convergence of gradient descent for ReLU on separated data: ``λ(X) >= δ / (100 n²)`` in :func:`relu_guarantee`.

    ``δ`` is the :func:`separation` here. The rate, ``η̄ δ / (2400 n² ‖X‖²)``, and the width, ``C (1 + ν)² n⁹ ‖X‖⁶ / δ⁴``
    with ``C = 9.216e17``, have constants that the paper hides and its proof gives; distance and path are those of
    :func:`relu_guarantee`. ``tolerance`` is ``ν``; other arguments and errors as there.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 2.5 (erratum B10: ``δ`` is the separation, ``ν`` the tolerance).

    Example:
        >>> import torch
        >>> round(1 / separated_guarantee(torch.eye(2), torch.ones(2), width=100).printed_rate)
        6788
    """
    guarantee = relu_guarantee(
        inputs,
        labels,
        width=width,
        step_fraction=step_fraction,
        tolerance=tolerance,
        smallest_eigenvalue=separation_eigenvalue_bound(inputs),
    )
    given = setting(inputs, labels, width, step_fraction, tolerance)
    delta = separation(inputs)
    required = over((1 + tolerance) ** 2 * given.num_samples**9 * given.spectral_norm**6, delta**4)
    hidden = condition("width", width, ">=", required, hidden=True, factor=width_factor, note="Eq. (2.8), C hidden")
    apart = condition("separation", delta, ">", 0.0, note="Assumption 1")
    return replace(
        guarantee,
        name="gradient descent, ReLU, separated data",
        source="Oymak & Soltanolkotabi 2019, Theorem 2.5 (erratum B10)",
        printed_probability=guarantee.probability,
        conditions=[apart, *(hidden if item.name == "width" else item for item in guarantee.conditions)],
    )
