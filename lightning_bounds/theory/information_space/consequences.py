"""What the bound from a random initialization comes to in its rough form, and where the kernel has full rank."""

import math
from collections.abc import Callable

from torch import Tensor

from lightning_bounds.theory.arguments import check_positive, check_probability
from lightning_bounds.theory.arithmetic import over, power, times
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.information_space import assumptions
from lightning_bounds.theory.information_space.assumptions import width_condition
from lightning_bounds.theory.information_space.kernel import label_rows, neural_spectrum
from lightning_bounds.theory.information_space.random_initialization import random_initialization


def simplified_random_initialization_bound(
    inputs: Tensor,
    labels: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor],
    alpha_bar: float,
    Gamma: float,
    zeta: float,
    delta: float,
    width: int | None = None,
    learning_rate: float | None = None,
) -> Bound:
    """Test error ``Err <= 2 |Π_N y| / √n + 36 Γ / (ᾱ (n |X|²)^{1/4}) + 12 ζ + 5 √(log(2/δ) / n) + 2 e^-Γ``.

    Never smaller than Theorem 3.2, from which it follows with ``|J_I⁺ y| <= √n / α_0``; arguments as there.

    Raises:
        ValueError: If an argument is out of range, or the labels do not fit the inputs.

    References:
        Oymak et al. 2019, Eq. (3.3) (errata A3, A4).
    """
    assumptions.check_parameters(alpha_bar, Gamma, zeta, delta)
    problem = random_initialization(
        inputs, labels, activation=activation, alpha_bar=alpha_bar, Gamma=Gamma, zeta=zeta, learning_rate=learning_rate
    )
    n = problem.setting.num_samples
    root = alpha_bar * (n * problem.setting.spectral_norm**2) ** 0.25  # A4
    terms = [
        Term("bias", 2 * problem.nuisance / math.sqrt(n), "2 |Pi_N y| / sqrt(n)", "a lower cut-off"),
        Term("variance", 36 * over(Gamma, root), "36 Gamma / (alpha_bar (n |X|^2)^(1/4))", "a higher cut-off"),
        Term("precision", 12 * zeta, "12 zeta", "smaller zeta"),
        assumptions.chance_term(delta, n),
        Term("duration", 2 * math.exp(-Gamma), "2 exp(-Gamma)", "larger Gamma"),
    ]
    return problem.bound(
        "simplified_random_initialization", terms, delta, width, "Oymak et al. 2019, Eq. (3.3) (A3, A4)"
    )


def full_rank_bound(
    inputs: Tensor,
    labels: Tensor,
    *,
    activation: str | Callable[[Tensor], Tensor],
    delta: float,
    width: int | None = None,
    variance_constant: float = 1.0,
    chance_constant: float = 1.0,
    width_constant: float | None = None,
) -> Bound:
    """Test error ``Err <= C_1 √(K/n) √(y^T Σ(X)⁻¹ y) + C_2 √(log(2/δ) / n)`` where everything is information.

    It is Theorem 3.2 with the cut-off ``α_0 = √λ_min``. The constants are hidden; with ``C_1 = C_2 = 1`` the value
    shows how the bound changes, and is no bound. ``y^T Σ⁻¹ y = Σ_c y_c^T Σ~⁻¹ y_c`` is right to ``ε λ_1 / λ_min``.

    Args:
        inputs: ``X``, rows of norm 1, shape ``(n, d)``.
        labels: Rows ``(n, K)`` with ``|y|² = n``, or sample-major ``(n*K,)``.
        activation: ``φ``, a name or a function; smooth.
        delta: ``δ`` in (0, 1).
        width: ``k``.
        variance_constant: ``C_1``.
        chance_constant: ``C_2``.
        width_constant: The constant hidden in ``k >= C n² K⁴ |X|⁴ log(n) / λ_min⁴``.

    Returns:
        The bound; infinite where the kernel is singular.

    Raises:
        ValueError: If an argument is out of range, or the labels do not fit the inputs.

    References:
        Oymak et al. 2019, Eq. (3.4) and (3.5). With one output and ReLU the first term is the complexity measure of
        Arora et al. 2019, Eq. (10), over √2.

    Example:
        >>> import torch
        >>> full_rank_bound(torch.eye(2), torch.eye(2), activation="identity", delta=0.1).terms["variance"]
        1.4142135623730951
    """
    check_probability("delta", delta)
    check_positive("variance_constant", variance_constant)
    check_positive("chance_constant", chance_constant)
    where = assumptions.setting(inputs, activation)
    rows = label_rows(labels, where.num_samples)
    n, K = rows.shape
    spectrum = neural_spectrum(inputs, activation, K)
    least = float(spectrum.roots[-1]) if float(spectrum.roots[-1]) > spectrum.noise_floor else 0.0
    values = spectrum.singular_values
    fitted = float((spectrum.coefficients(rows.flatten()) / values).norm()) if least > 0 else math.inf
    needed = times(math.log(n), over(n**2 * K**4 * where.spectral_norm**4, power(least, 8)))  # lambda = least^2
    terms = [
        Term("variance", variance_constant * math.sqrt(K / n) * fitted, "C_1 sqrt(K/n) sqrt(y^T Sigma^-1 y)"),
        Term("chance", chance_constant * math.sqrt(math.log(2 / delta) / n), "C_2 sqrt(log(2/delta) / n)"),
    ]
    return Bound(
        "full_rank",
        math.fsum(term.value for term in terms),
        terms,
        [
            *where.conditions(),
            condition("label_norm", float(rows.norm()), "==", math.sqrt(n), rtol=1e-6, note="|y|^2 = n"),
            condition("least_singular_value", least, ">", 0, note="Sigma(X) is invertible, above the noise floor"),
            width_condition("width", width, needed, hidden=True, factor=width_constant, note="Eq. (3.5)"),
            Condition("constants", "hidden", "", "C_1 and C_2 of Eq. (3.4)", None, note="see assumptions"),
        ],
        confidence=1 - delta - (2.0 * K) ** -100 - float(n) ** -100,  # A7
        source="Oymak et al. 2019, Eq. (3.4) and (3.5)",
        assumptions={"variance_constant": variance_constant, "chance_constant": chance_constant},
        caveats=list(assumptions.CAVEATS) + [assumptions.SINGLE_OUTPUT] * (K == 1),
    )
