"""Theorem 5.2: a bound on the error of a nearly-linear network that is known before the training."""

import math
from collections.abc import Sequence
from typing import Any

from lightning_bounds.theory.arguments import check_positive
from lightning_bounds.theory.bound import Bound, Condition, Term, condition
from lightning_bounds.theory.nearly_linear.arguments import as_times, check_fraction
from lightning_bounds.theory.nearly_linear.deviation import (
    check_variant,
    counting_term,
    expected_norm,
    log_deviations,
)
from lightning_bounds.theory.nearly_linear.envelopes import blow_up_time, scalar_envelope

# What numbers alone cannot tell: name, what the theorem asks for, and where it stands.
_UNSEEN = (
    ("architecture", "fully connected, no biases, LeakyReLU(1 - epsilon), one output", "section 5.1"),
    ("loss", "squared loss, labels -1 and +1", "section 5.1"),
    ("whitened", "second moment of the training inputs is the identity", "section 5.1"),
    ("full_rank", "`dim` is the rank of the inputs", "section 5.1, E421"),
    ("initial_norms", "|W_l(0)| <= beta for every layer", "Theorem 5.2"),
    ("gradient_flow", "full-batch gradient descent with a small step", "Eq. (4)"),
    ("precision", "`precision_bits` are the bits of the training", "Lemma 7.2"),
    ("independent_samples", "independent draws from one distribution", "Theorem 5.2"),
)
_SOURCES = {
    "theorem": "Theorem 5.2, Eq. (6), with E401 to E404",
    "w_beta": "Theorem 5.2, Eq. (6), with E401 to E403, but w(beta)",
    "printed": "Theorem 5.2, Eq. (6), as printed, with E401",
    "corrected_tight": "Theorem 5.2, Eq. (6), with E401 to E404 and the system of E410, F = u + beta rho - bb",
    "corrected_loose": "Theorem 5.2, Eq. (6), with E401 to E404 and the system of E410, F = rho u",
}


def apriori_bound(
    *,
    strength: float,
    rho: float,
    beta: float,
    epsilon: float,
    depth: int,
    dim: int,
    samples: int,
    time: float,
    margin: float,
    order: int,
    delta: float,
    precision_bits: int = 32,
    train_margin_risk: float = 0.0,
    variant: str = "theorem",
    scanned: int = 1,
    input_norm: float | None = None,
    sigma_known: bool | None = None,
    conditions: Sequence[Condition] = (),
) -> Bound:
    """``R ≤ R̂_γ + Υ_κ + Δ_κ(t) ε^κ / γ`` with probability ``1 - δ``.

    Without a training, ``R̂_γ`` is unknown, and the bound at its default 0 is that on the gap ``R - R̂_γ``.

    Args:
        strength: ``s`` in [0, 1], see :func:`~lightning_bounds.theory.nearly_linear.strength`.
        rho: ``ρ = |W_1(0)|_F / |W_1(0)|``, at least 1; 1 for a first layer of rank one.
        beta: ``β``, largest spectral norm of an initial layer.
        epsilon: ``ε`` in [0, 1]: the slope of LeakyReLU is ``1 - ε``.
        depth: ``L``, number of layers, at least 2.
        dim: ``d``, the rank of the inputs.
        samples: ``m``, at least 2.
        time: ``t``, step size times steps.
        margin: ``γ``; the paper's experiments take ``β²/q`` with ``q`` of 1 to 100, for two layers.
        order: ``κ``, 1 or 2, the order of the proxy.
        delta: ``δ``, probability of failure.
        precision_bits: ``p``, bits per number in training.
        train_margin_risk: ``R̂_γ``, share of training samples with ``y f < γ``.
        variant: ``"theorem"``; ``"corrected_tight"`` or ``"corrected_loose"``, which are proved for every ``ρ``
            (erratum E410); ``"w_beta"`` or ``"printed"``, see
            :func:`~lightning_bounds.theory.nearly_linear.deviation_bound`.
        scanned: How many combinations of time, margin, order and initialization the choice was made from: they share
            ``δ`` (erratum E419).
        input_norm: Mean norm of whitened fresh inputs, in the place of ``√d`` (erratum E413).
        sigma_known: Whether the map that whitens does not come from the training inputs (erratum E413).
        conditions: What was measured elsewhere; takes the place of the condition of the same name, or is added.

    Raises:
        ValueError: If a number is out of range or not finite.

    References:
        A generalization bound for nearly-linear networks, Theorem 5.2, errata E401 to E404, E409, E410, E413, E419.

    Example:
        >>> bound = apriori_bound(
        ...     strength=0.65, rho=1.0, beta=1e-3, epsilon=1e-3, depth=2, dim=49, samples=60000, time=2.0, margin=1e-6,
        ...     order=2, delta=0.01,
        ... )
        >>> {name: round(value, 6) for name, value in bound.terms.items()}, bound.vacuous
        ({'train_margin_risk': 0.0, 'counting': 0.134732, 'deviation': 0.000863}, False)
    """
    check_variant(variant)
    check_positive("margin", margin)
    check_fraction("train_margin_risk", train_margin_risk)
    elapsed = as_times(float(time))
    counts: dict[str, Any] = {
        "order": order, "dim": dim, "samples": samples, "delta": delta, "precision_bits": precision_bits,
        "scanned": scanned,
    }  # fmt: skip
    counting, strict = (counting_term(**counts, strict=strict) for strict in (False, True))
    constants = scalar_envelope(strength, rho, beta, epsilon, depth, root=variant == "printed")
    logs = log_deviations(constants, elapsed, expected_norm(dim, input_norm), (order,), variant)[0]
    # A linear network is its own proxy, whatever u is.
    deviation = float((logs + order * math.log(epsilon) - math.log(margin)).exp()) if epsilon > 0 else 0.0
    blow_up = math.inf
    if epsilon > 0:
        blow_up = blow_up_time(strength=strength, rho=rho, beta=beta, epsilon=epsilon, depth=depth)
    meaning = "Phi v u^(L-1) epsilon^kappa / gamma" if "corrected" not in variant else "Delta epsilon^kappa / gamma"
    terms = (
        Term("train_margin_risk", train_margin_risk, "share of y f < gamma", "longer training, a smaller margin"),
        Term("counting", counting, "sqrt((kappa p d ln 2 + ln(K / delta)) / 2m)", "more samples, fewer features"),
        Term("deviation", deviation, meaning, "less time, a smaller epsilon, a larger margin"),
    )
    decided = [
        condition("time", float(elapsed), "<", blow_up, note="before the blow-up of u, which a linear network has not"),
        _input_layer(rho, variant),
        _projected_loss(epsilon),
        Condition(
            "a_priori_choice",
            f"{scanned} combination{'s' if scanned > 1 else ''} counted",
            "",
            "time, margin, order and initialization do not depend on the data, or come from a scan that is counted",
            None,
            note="E419",
        ),
        Condition(
            "sigma_known",
            {True: "independent data", False: "training inputs", None: "not given"}[sigma_known],
            "",
            "the map that whitens does not come from the training inputs",
            sigma_known,
            note=f"E413; else the strict counting term is {strict:.6g}",
        ),
        *(Condition(name, "not given", "", required, None, note=note) for name, required, note in _UNSEEN),
    ]
    measured = {item.name: item for item in conditions}
    merged = [measured.pop(item.name, item) for item in decided]
    return Bound(
        "nearly_linear",
        math.fsum(term.value for term in terms),
        terms,
        [*merged, *measured.values()],
        confidence=1 - delta,
        source=f"A generalization bound for nearly-linear networks, {_SOURCES[variant]}",
        caveats=(
            "0.5 is what a coin reaches on balanced labels.",
            f"With a map that whitens from the training inputs, a strict count gives {strict:.6g} (E413).",
        ),
    )


def _input_layer(rho: float, variant: str) -> Condition:
    note = "E410: for rho > 1, v is not proved to bound the derivatives of the later layers"
    if "corrected" in variant:
        return Condition("rho", rho, ">=", 1.0, True, note="the corrected system holds for every rho (E410)")
    return Condition("rho", rho, "==", 1.0, True if rho == 1 else None, note=note)


def _projected_loss(epsilon: float) -> Condition:
    required = "L_X(t) <= L_X(0) for the networks of every tau in [0, epsilon]"
    if epsilon == 0:
        return Condition("projected_loss", "linear network", "", required, True, note="proved in appendix E, E415")
    return Condition("projected_loss", "not given", "", required, None, note="Assumption 5.1, E409")
