"""Rademacher complexity of two-layer networks near their initialization, and the steps from it to a test error."""

import math

from torch import Tensor

from lightning_bounds.theory.arguments import check_not_negative, check_positive, check_probability
from lightning_bounds.theory.bound import Bound, Term

# A12 (ii)
FIXED_CLASS = (
    "The class of functions, its radius and its center, must be fixed before the sample is seen: "
    "no union over radii is taken (A12)."
)


def rademacher_bound(
    *,
    nu: float,
    B: float,
    num_samples: int,
    width: int,
    distance: float,
    row_distance: float,
    output_distance: float = 0.0,
    energy: float = 0.0,
) -> float:
    """Rademacher complexity ``R_S <= ν B ((M_W + E M_V) / √n + (R² + M_W M_V) / √k)`` of networks ``V φ(W x)``.

    The class is ``|W - W_0|_F <= M_W``, ``|W - W_0|_{2,∞} <= R / √k`` and ``|V - V_0|_F <= ν M_V / √(k K)``.

    Args:
        nu: ``ν`` with ``|V_0|_∞ <= ν / √(k K)``.
        B: Bound on ``|φ'|`` and ``|φ''|``; at least 1 if the output layer moves (erratum A18).
        num_samples: ``n``; inputs have norm 1.
        width: ``k``.
        distance: ``M_W``.
        row_distance: ``R``.
        output_distance: ``M_V``; 0 for an output layer that stays.
        energy: ``E``, see :func:`average_energy`.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Lemma 6.17, Eq. (6.40), which Eq. (6.41) and (6.42) misquote (erratum A18).

    Example:
        >>> rademacher_bound(nu=1.0, B=1.0, num_samples=100, width=100, distance=2.0, row_distance=1.0)
        0.30000000000000004
    """
    for name, number in {"nu": nu, "distance": distance, "row_distance": row_distance, "energy": energy}.items():
        check_not_negative(name, number)
    check_not_negative("output_distance", output_distance)
    check_positive("B", B)
    check_positive("num_samples", num_samples)
    check_positive("width", width)
    if output_distance > 0 and B < 1:
        raise ValueError(f"Expected `B` of at least 1 for an output layer that moves, but got {B}; take 1.")
    linear = (distance + energy * output_distance) / math.sqrt(num_samples)
    quadratic = (row_distance**2 + distance * output_distance) / math.sqrt(width)
    return nu * B * (linear + quadratic)  # (6.40)


def average_energy(hidden: Tensor) -> float:
    """Root mean square ``E`` of the hidden outputs ``φ(W_0 x_i)``.

    Args:
        hidden: ``φ(X W_0^T)``, shape ``(n, k)``.

    Raises:
        ValueError: If it is not a finite matrix.

    References:
        Oymak et al. 2019, Lemma 6.17.
    """
    if hidden.dim() != 2 or hidden.numel() == 0 or not bool(hidden.isfinite().all()):
        raise ValueError(f"Expected finite hidden outputs (n, k), but got shape {tuple(hidden.shape)}.")
    return float(hidden.detach().double().square().mean().sqrt())


def loss_bound(empirical_loss: float, rademacher: float, *, num_samples: int, delta: float) -> Bound:
    """Expected loss ``E l <= l_S + 2√2 R_S + √(5 log(2/δ) / n)``, for a loss in [0, 1] that is 1-Lipschitz.

    Args:
        empirical_loss: ``l_S``, the mean loss over the sample.
        rademacher: ``R_S``, of vector-valued functions with one sign per output.
        num_samples: ``n``.
        delta: Probability of failure, in (0, 1).

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Lemma 6.16.

    Example:
        >>> round(loss_bound(0.1, 0.05, num_samples=1000, delta=0.1).value, 4)
        0.3638
    """
    check_not_negative("empirical_loss", empirical_loss)
    terms = (
        Term("empirical_loss", empirical_loss, "mean loss of the sample"),
        *_complexity(rademacher, num_samples, delta),
    )
    return Bound(
        "loss",
        math.fsum(term.value for term in terms),
        terms,
        confidence=1 - delta,
        source="Oymak et al. 2019, Lemma 6.16",
        caveats=(FIXED_CLASS,),
    )


def classification_bound(
    residual_norm: float,
    rademacher: float,
    *,
    num_samples: int,
    delta: float,
    signs: bool = False,
    sharp: bool = False,
) -> Bound:
    """Classification error ``Err <= c (|F - Y|_F / √n + 2√2 R_S + √(5 log(2/δ) / n))``.

    For one-hot labels ``c = 2``; as a wrong argmax puts the outputs ``1/√2`` away from the label, ``c = √2`` does too.
    A wrong sign puts a single output 1 away from a label ±1, so there ``c = 1``.

    Args:
        residual_norm: ``|F - Y|_F`` on the sample.
        rademacher: ``R_S``.
        num_samples: ``n``.
        delta: Probability of failure, in (0, 1).
        signs: Whether labels are ±1 with a single output, for which the argmax says nothing.
        sharp: Whether to take ``√2`` in the place of the printed 2 for one-hot labels.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Oymak et al. 2019, Lemma 6.18, Eq. (6.42), with the complexity of Eq. (6.40) (erratum A18).

    Example:
        >>> round(classification_bound(3.0, 0.01, num_samples=1000, delta=0.1).value, 4)
        0.4911
    """
    check_not_negative("residual_norm", residual_norm)
    factor = 1.0 if signs else math.sqrt(2) if sharp else 2.0
    fit = Term("fit", residual_norm / math.sqrt(num_samples), "|F - Y|_F / sqrt(n)", "more training")
    terms = [
        Term(term.name, factor * term.value, f"{factor:.4g} ({term.meaning})", term.smaller_by)
        for term in (fit, *_complexity(rademacher, num_samples, delta))
    ]
    return Bound(
        "classification",
        math.fsum(term.value for term in terms),
        terms,
        confidence=1 - delta,
        source="Oymak et al. 2019, Lemma 6.18, Eq. (6.42) (A18)",
        caveats=(FIXED_CLASS,),
    )


def _complexity(rademacher: float, num_samples: int, delta: float) -> tuple[Term, Term]:
    check_not_negative("rademacher", rademacher)
    check_positive("num_samples", num_samples)
    check_probability("delta", delta)
    chance = math.sqrt(5 * math.log(2 / delta) / num_samples)
    return (
        Term("complexity", 2 * math.sqrt(2) * rademacher, "2 sqrt(2) R_S", "a shorter way from the initialization"),
        Term("chance", chance, "sqrt(5 log(2/delta) / n)", "more samples"),
    )
