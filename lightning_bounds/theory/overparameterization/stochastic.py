"""Stochastic gradient descent on the hidden layer, and what the theorems give on uniformly random inputs."""

import math

from torch import Tensor

from lightning_bounds.theory.bound import condition
from lightning_bounds.theory.gaussian.activations import Elementwise
from lightning_bounds.theory.guarantee import Guarantee
from lightning_bounds.theory.overparameterization.conditioning import neural_eigenvalue_bound
from lightning_bounds.theory.overparameterization.convergence import smooth_guarantee
from lightning_bounds.theory.overparameterization.setting import (
    INITIALIZATION,
    checked_bound,
    checked_eigenvalue,
    setting,
)

# c in the step sizes η̄ n / (c ‖y‖² ‖X‖²) of the corollaries, B = 1.
_STEP_DENOMINATORS = {"softplus": 2.0, "relu": 3.0}


def sgd_guarantee(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    activation: str | Elementwise,
    step_fraction: float = 1.0,
    tolerance: float = 1.0,
    confidence_factor: float = 3.0,
    smallest_eigenvalue: float | None = None,
    width_factor: float | None = None,
    distance_factor: float = 1.0,
) -> Guarantee:
    """Convergence of stochastic gradient descent, one uniformly drawn sample per step, for a smooth activation.

    With ``λ = μ_φ² σ_min(X*X)²`` and the step size ``η = η̄ λ n / (9 ν B⁴ ‖y‖² ‖X‖²)``:
    ``E[|r_t|² 1_E] <= (1 - η̄ λ² / (144 n ν B⁴ ‖X‖²))^t |r_0|²`` on an event ``E`` of probability at least
    ``1 - (4/ν) (3 B ‖X‖ / √λ)^{1/(kd)}``, on which ``|W_t - W_0|_F <= c ν √n``.

    Args:
        inputs: ``X``, shape ``(n, d)``, rows of norm 1.
        labels: ``y``, shape ``(n,)``.
        width: ``k``, hidden units.
        activation: ``φ``, smooth: a name or an entrywise function.
        step_fraction: ``η̄``, at most 1.
        tolerance: ``δ`` of the start.
        confidence_factor: ``ν``, at least 3: the price of the probability of ``E``.
        smallest_eigenvalue: A lower bound of ``λ(X)`` to use in the place of ``μ_φ² σ_min(X*X)²``, which the theorem is
            stated with.
        width_factor: ``c`` of the width condition, which the paper hides.
        distance_factor: ``c`` of the distance, which the paper hides; 1 by default.

    Returns:
        Its ``probability`` is of the start and of ``E`` together.

    Raises:
        ValueError: If shapes do not match, a number is out of range, or the activation is unknown.

    References:
        Oymak & Soltanolkotabi 2019, Theorem 2.6; its rate is of the squared residual, as printed.

    Example:
        >>> import torch
        >>> guarantee = sgd_guarantee(torch.eye(4), torch.ones(4), width=10**6, activation="softplus")
        >>> guarantee.max_distance
        6.0
    """
    given = setting(inputs, labels, width, step_fraction, tolerance)
    if not 0 < distance_factor < math.inf or not 0 < confidence_factor < math.inf:
        raise ValueError(
            f"Expected positive finite `confidence_factor` and `distance_factor`, "
            f"but got {confidence_factor} and {distance_factor}."
        )
    B, nu = checked_bound(activation), confidence_factor
    lam = checked_eigenvalue(smallest_eigenvalue)
    lam = neural_eigenvalue_bound(inputs, activation) if lam is None else lam
    n, norm = given.num_samples, given.spectral_norm
    start = smooth_guarantee(
        inputs,
        labels,
        width=width,
        activation=activation,
        step_fraction=step_fraction,
        tolerance=tolerance,
        smallest_eigenvalue=lam,
        width_factor=width_factor,
    )
    rate = step_fraction * (lam / (B**2 * norm)) ** 2 / (144 * n * nu)
    event = _event_probability(nu, B * norm, lam, width * given.num_features)
    return Guarantee(
        name="stochastic gradient descent, smooth activation",
        source="Oymak & Soltanolkotabi 2019, Theorem 2.6",
        learning_rate=given.step(9 * nu * B**4) * lam,
        rate=rate,
        printed_rate=rate,
        initial_residual=start.initial_residual,
        max_distance=distance_factor * nu * math.sqrt(n),
        probability=(start.probability or 0.0) + event - 1,
        printed_probability=(start.printed_probability or 0.0) + event - 1,
        conditions=[*start.conditions, condition("confidence_factor", nu, ">=", 3.0, note="ν of Theorem 2.6")],
        assumptions={"distance_factor": distance_factor},
        caveats=[
            *start.caveats,
            "both rates are of E[|r_t|² 1_E], over the order of the samples",
            "every step takes one sample, drawn uniformly",
        ],
    )


def _event_probability(nu: float, scale: float, eigenvalue: float, parameters: int) -> float:
    """``1 - (4/ν) (3 B ‖X‖ / √λ)^{1/(kd)}``."""
    if eigenvalue == 0 or scale == math.inf:
        return -math.inf
    return 1 - 4 / nu * (3 * scale / math.sqrt(eigenvalue)) ** (1 / parameters)


def sphere_guarantee(
    inputs: Tensor,
    labels: Tensor,
    *,
    width: int,
    activation: str,
    step_fraction: float = 1.0,
    rate_factor: float = 1.0,
    distance_factor: float = 1.0,
    width_factor: float | None = None,
    sample_factor: float | None = None,
) -> Guarantee:
    """How convergence scales for inputs that are uniform on the unit sphere: ``|r_t| <= 3 (1 - c_1 d/n)^t ‖y‖``.

    This asks for ``√(kd) >= C n`` for softplus and ``C n²/d`` for ReLU, and ``d <= n <= c d²``; it gives also
    ``|W_t - W_0|_F <= c_3 √n``. The paper gives no constant: what is returned is the scale, with every hidden constant
    1 unless it is passed.

    Args:
        inputs: ``X``, shape ``(n, d)``: a draw from the sphere.
        labels: ``y``, shape ``(n,)``.
        width: ``k``, hidden units.
        activation: ``"softplus"`` or ``"relu"``.
        step_fraction: ``η̄``, at most 1.
        rate_factor: ``c_1``.
        distance_factor: ``c_3``.
        width_factor: ``C``, which decides the width condition.
        sample_factor: ``c``, which decides whether ``n <= c d²``.

    Raises:
        ValueError: If shapes do not match, a number is out of range, or the activation is another.

    References:
        Oymak & Soltanolkotabi 2019, Corollaries 2.2 and 2.4 (erratum B4: the step of 2.4 is ``n / (3 ‖y‖² ‖X‖²)``).

    Example:
        >>> import torch
        >>> guarantee = sphere_guarantee(torch.eye(4), torch.ones(4), width=100, activation="relu", rate_factor=0.5)
        >>> guarantee.printed_rate, guarantee.max_distance
        (0.5, 2.0)
    """
    given = setting(inputs, labels, width, step_fraction, tolerance=1.0)
    if activation not in _STEP_DENOMINATORS:
        raise ValueError(f"Expected `activation` to be 'softplus' or 'relu', but got {activation!r}.")
    factors = {"rate_factor": rate_factor, "distance_factor": distance_factor}
    if not all(0 < value < math.inf for value in factors.values()):
        raise ValueError(f"Expected positive finite factors, but got {factors}.")
    n, d = given.num_samples, given.num_features
    required = n if activation == "softplus" else n**2 / d
    printed_rate = min(rate_factor * d / n, 1.0)
    return Guarantee(
        name=f"gradient descent on the sphere, {activation}",
        source=f"Oymak & Soltanolkotabi 2019, Corollary {'2.2' if activation == 'softplus' else '2.4 (erratum B4)'}",
        # B4: the step of Corollary 2.4 lacks the factor 3 of Theorem 2.3.
        learning_rate=given.step(_STEP_DENOMINATORS[activation]),
        rate=printed_rate * (2 - printed_rate),
        printed_rate=printed_rate,
        initial_residual=3 * given.label_norm,
        max_distance=distance_factor * math.sqrt(n),
        conditions=[
            given.unit,
            condition("step_fraction", step_fraction, "<=", 1.0, note="largest step size of the theorem"),
            condition("n", n, ">=", d, note="Corollaries 2.2 and 2.4"),
            condition("n at most d^2", n, "<=", d**2, hidden=True, factor=sample_factor, note="c hidden"),
            condition(
                "sqrt(k d)",
                math.sqrt(width * d),
                ">=",
                required,
                hidden=True,
                factor=width_factor,
                note="Eqs. (2.3) and (2.7), C hidden",
            ),
        ],
        assumptions=factors,
        caveats=[
            INITIALIZATION,
            "the inputs are independent and uniform on the unit sphere",
            "the rate starts from 3 |y|",
        ],
    )
