"""What (stochastic) gradient descent guarantees of a batch-normalized network, in each version that the paper has."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lightning_bounds.theory.arguments import check_not_negative, check_probability
from lightning_bounds.theory.arithmetic import over, power
from lightning_bounds.theory.batch_norm_margin.arguments import check_setting
from lightning_bounds.theory.batch_norm_margin.conditions import (
    run_conditions,
    step_conditions,
    step_sizes,
    theorem_conditions,
)
from lightning_bounds.theory.batch_norm_margin.constants import horizon, radius
from lightning_bounds.theory.batch_norm_margin.normalization import typical_inverse_normalization
from lightning_bounds.theory.bound import Bound, Condition, Term
from lightning_bounds.theory.guarantee import Guarantee

_PAPER = "Test error guarantees for batch-normalized shallow ReLU networks"
_STEPS_NOTE = "more steps"


class MovementBounds(NamedTuple):
    """``outer``: bound on ``|U_s - U_0|`` with ``U = (a, c)``; ``inner``: on ``|V_s - V_0|_F``; for ``s < t``."""

    outer: float
    inner: float


class MarginGuarantee(NamedTuple):
    """What a theorem says of a training, and its bounds on the probability of error, by version.

    Attributes:
        guarantee: Step size, movement, probability, conditions. Its rate is 0, as the theorems state none.
        bounds: Bounds on ``min_{s<t} Pr(sgn f(x; W_s) ≠ y)``, the error of the best iterate, not of the last.
    """

    guarantee: Guarantee
    bounds: dict[str, Bound]

    def with_conditions(self, conditions: Sequence[Condition]) -> "MarginGuarantee":
        """The same with conditions of equal names replaced, such as by those of :func:`run_conditions`."""
        known = {item.name: item for item in conditions}

        def updated(item: Any) -> Any:
            return replace(item, conditions=[known.get(record.name, record) for record in item.conditions])

        return MarginGuarantee(updated(self.guarantee), {name: updated(b) for name, b in self.bounds.items()})


def movement_bounds(*, gamma: float, eps_N: float, width: int) -> MovementBounds:
    """``|U_s - U_0| <= R = gamma^{1/3} m^{1/6} / (27 e)`` and ``|V_s - V_0|_F <= 1/(2e)``; infinite without a margin.

    Args:
        gamma: Margin of Assumption 1.2.
        eps_N: ``max_j 1/N(v_j)``; ``e = max(1, ε_N)``.
        width: ``m``.

    References:
        Theorem 2.1, and ``R_V = 1/(2e)`` throughout (erratum E311).

    Example:
        >>> movement_bounds(gamma=0.027, eps_N=2.0, width=10**6).inner
        0.25
    """
    R = radius(gamma=gamma, eps_N=eps_N, width=width)
    return MovementBounds(R, 0.5 / max(1.0, eps_N)) if gamma > 0 else MovementBounds(math.inf, math.inf)


def sgd_guarantee(
    *, gamma: float, eps_N: float, width: int, dim: int, samples: int, steps: int, delta: float
) -> MarginGuarantee:
    """Stochastic gradient descent on the logistic loss: ``min_{s<t} Pr(error) <= C e⁴ / (gamma² t) + c ln(1/δ) / t``.

    ``"main"`` (``C = 2¹⁵, c = 4``) and ``"appendix"`` (``2²³, 4``) are the paper's, with its printed step size, for
    which its proof does not work: they always violate ``step_outer``. ``"rederived"`` (``2²⁵, 8``) is what its proof
    gives with the step size that it needs. With real data all are far above 1; they say how ``gamma``, ``ε_N`` and
    ``t`` trade.

    Args:
        gamma: ``gamma_a + gamma_c``; without a positive one there is no bound: infinity, and a violated condition.
        eps_N: ``ε_N = max_j 1/N(v_j)`` of the initial directions; ``e = max(1, ε_N)``.
        width: ``m``, hidden units.
        dim: ``d``, input features.
        samples: ``n``, that the statistics are of.
        steps: ``t``.
        delta: ``δ``; all holds with probability ``1 - 20 δ``, less than nothing from ``δ = 1/20`` on.

    Returns:
        Pair of the guarantee and the bounds by version.

    Raises:
        ValueError: If a number is out of range.

    References:
        Theorem 2.1, Theorem E.5 (errata E305, E306, E307, E309, E311, E313).

    Example:
        >>> report = sgd_guarantee(gamma=0.07, eps_N=18.4, width=4096, dim=3072, samples=1000, steps=10**6, delta=0.01)
        >>> {name: f"{bound.value:.1e}" for name, bound in report.bounds.items()}
        {'main': '7.7e+05', 'appendix': '2.0e+08', 'rederived': '7.8e+08'}
    """
    numbers = _numbers(gamma, eps_N, width, dim, samples, steps, delta)
    # E305: 2^15 in the main text, 2^23 in (37), where the proof's Σ|l'| <= 2^22 e^4 / gamma^2 comes from.
    # E307: 2 E|l'| in the place of E|l'|/2, so 8 (2^22 e^4 / gamma^2) + 8 ln(1/delta).
    versions = {
        "main": (2.0**15, 4.0, "Theorem 2.1, Eq. (2); E305, E306"),
        "appendix": (2.0**23, 4.0, "Theorem E.5, Eq. (37); E306, E307"),
        "rederived": (2.0**25, 8.0, "proof of Theorem E.5 with E305, E306, E307, E309"),
    }
    bounds = {
        version: _bound(
            f"batch_norm_margin_sgd_{version}",
            [_descent_term(constant, gamma, eps_N, steps), _confidence_term(factor, steps, delta)],
            _conditions(numbers, "consistent" if version == "rederived" else "printed"),
            source,
            numbers,
        )
        for version, (constant, factor, source) in versions.items()
    }
    return MarginGuarantee(_guarantee("stochastic gradient descent", "Theorem 2.1", numbers, []), bounds)


def gd_guarantee(
    *, gamma: float, eps_N: float, width: int, dim: int, samples: int, steps: int, delta: float
) -> MarginGuarantee:
    """Gradient descent on the mean logistic loss: three different statements, none of them completely proved.

    ``"main"``: ``2¹⁷ m^{1/3} e⁴ / (gamma^{1/3} t √n) + 4 ln(1/δ)/t``, with ``|U_s - U_0| <= 8``. ``"appendix"``: that
    of stochastic gradient descent, ``2²³ e⁴ / (gamma² t) + 4 ln(1/δ)/t``. ``"proof"``: how the proof ends,
    ``2¹¹ / (gamma √n) + 3 √(ln(2/δ) / 2n)``, which does not depend on ``t``. Their condition ``proof`` is unknown.

    Args:
        gamma: ``gamma_a + gamma_c``; without a positive one there is no bound.
        eps_N: ``ε_N = max_j 1/N(v_j)`` of the initial directions; ``e = max(1, ε_N)``.
        width: ``m``.
        dim: ``d``.
        samples: ``n``.
        steps: ``t``.
        delta: ``δ``.

    Returns:
        Pair of the guarantee and the bounds by version.

    Raises:
        ValueError: If a number is out of range.

    References:
        Theorem 2.2, Theorem F.4 (erratum E308).

    Example:
        >>> report = gd_guarantee(gamma=0.5, eps_N=1.0, width=8, dim=2, samples=10**8, steps=10**6, delta=0.01)
        >>> {name: f"{bound.value:.2g}" for name, bound in report.bounds.items()}
        {'main': '5.1e-05', 'appendix': '34', 'proof': '0.41'}
    """
    numbers = _numbers(gamma, eps_N, width, dim, samples, steps, delta)
    main = over(
        2.0**17 * width ** (1 / 3) * power(max(1.0, eps_N), 4), max(gamma, 0.0) ** (1 / 3) * steps * math.sqrt(samples)
    )
    deviation = 3 * math.sqrt(math.log(2 / delta) / (2 * samples))
    complexity = over(2.0**11, max(gamma, 0.0) * math.sqrt(samples))
    late = [_confidence_term(4.0, steps, delta)]
    # E308: all three as printed.
    versions = {
        "main": ([Term("descent", main, "2^17 m^{1/3} e^4 / (gamma^{1/3} t sqrt(n))", _STEPS_NOTE), *late], "Eq. (6)"),
        "appendix": ([_descent_term(2.0**23, gamma, eps_N, steps), *late], "Theorem F.4, Eq. (54)"),
        "proof": (
            [
                Term("complexity", complexity, "2^11 / (gamma sqrt(n))", "more samples, a larger margin"),
                Term("sampling", deviation, "3 sqrt(ln(2/delta) / 2n)", "more samples"),
            ],
            "end of the proof of Theorem F.4",
        ),
    }
    extra = [
        Condition("proof", "incomplete", "", "complete", None, note="E308: three different statements, none proved"),
        Condition("dynamics", "not stated", "", "gradient flow or steps", None, note="E308: the paper uses both"),
    ]
    conditions = [item for item in _conditions(numbers, "printed") if item.name != "samples"] + extra
    bounds = {
        version: _bound(f"batch_norm_margin_gd_{version}", terms, conditions, f"Theorem 2.2, {source}; E308", numbers)
        for version, (terms, source) in versions.items()
    }
    return MarginGuarantee(_guarantee("gradient descent", "Theorem 2.2; E308", numbers, extra), bounds)


def steps_to_error(*, gamma: float, eps_N: float, delta: float, error: float = 0.5) -> dict[str, float]:
    """After how many steps each version of :func:`sgd_guarantee` falls below an error; infinite without a margin.

    Args:
        gamma: ``gamma_a + gamma_c``.
        eps_N: ``max_j 1/N(v_j)``.
        delta: ``δ``.
        error: Positive; 1/2 is a coin.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> steps_to_error(gamma=1.0, eps_N=1.0, delta=0.01)["main"]
        65573.0
    """
    check_not_negative("error", error)
    check_probability("delta", delta)
    bounds = sgd_guarantee(gamma=gamma, eps_N=eps_N, width=1, dim=1, samples=2, steps=1, delta=delta).bounds
    # The bounds fall like 1/t.
    needed = {name: over(bound.value, error) for name, bound in bounds.items()}
    return {name: steps if math.isinf(steps) else math.floor(steps) + 1.0 for name, steps in needed.items()}


def _numbers(
    gamma: float, eps_N: float, width: int, dim: int, samples: int, steps: int, delta: float
) -> dict[str, Any]:
    check_setting(gamma, eps_N, delta, width=width, dim=dim, samples=samples, steps=steps)
    counts = {"width": int(width), "dim": int(dim), "samples": int(samples), "steps": int(steps)}
    return {"gamma": float(gamma), "eps_N": float(eps_N), **counts, "delta": float(delta)}


def _conditions(numbers: dict[str, Any], step: str) -> list[Condition]:
    of_run = {name: numbers[name] for name in ("gamma", "eps_N", "width")}
    other = {"printed": "consistent_step", "consistent": "printed_step"}[step]
    rate = getattr(step_sizes(**of_run), step)
    run = [item for item in run_conditions(**of_run) if item.name != other]
    return theorem_conditions(**numbers) + step_conditions(rate, **of_run) + run


def _descent_term(constant: float, gamma: float, eps_N: float, steps: int) -> Term:
    value = constant * power(over(power(max(1.0, eps_N), 2), max(gamma, 0.0)), 2) / steps
    meaning = f"2^{round(math.log2(constant))} e^4 / (gamma^2 t)"
    return Term("descent", value, meaning, "a larger margin, a smaller eps_N, more steps")


def _confidence_term(factor: float, steps: int, delta: float) -> Term:
    return Term("concentration", factor * math.log(1 / delta) / steps, f"{factor:g} ln(1/delta) / t", _STEPS_NOTE)


def _bound(
    name: str, terms: Sequence[Term], conditions: Sequence[Condition], source: str, numbers: dict[str, Any]
) -> Bound:
    value = math.fsum(term.value for term in terms)
    confidence = 1 - 20 * numbers["delta"]
    caveats = ["of the best iterate before t, not of the last", *_caveats(numbers)]
    return Bound(name, value, terms, conditions, confidence, f"{_PAPER}, {source}", caveats=caveats)


def _guarantee(name: str, source: str, numbers: dict[str, Any], extra: Sequence[Condition]) -> Guarantee:
    of_run = {key: numbers[key] for key in ("gamma", "eps_N", "width")}
    outer, inner = movement_bounds(**of_run)
    flow = [f"main text of gradient descent: |U_s - U_0| <= 8 in the place of R = {outer:.3g}"] if extra else []
    return Guarantee(
        f"{name}, batch-normalized two-layer network",
        f"{_PAPER}, {source}",
        learning_rate=step_sizes(**of_run).consistent,
        # The theorems bound the error of the best iterate; they state no rate of a residual.
        rate=0.0,
        # Eq. (40): |U_s - U_0|^2 + alpha |V_s - V_0|^2 < R^2 with alpha = R^2 / inner^2.
        max_distance=max(outer, inner),
        probability=1 - 20 * numbers["delta"],
        conditions=[*_conditions(numbers, "consistent"), *extra],
        caveats=[
            "logistic loss; the learning rate is the consistent one, of one sample's loss or of the mean loss",
            "no rate is stated: its 0 is not a number of the paper",
            f"|(a, c) moves| <= {outer:.3g}, |V moves|_F <= {inner:.3g}",
            *flow,
            *_caveats(numbers),
        ],
    )


def _caveats(numbers: dict[str, Any]) -> list[str]:
    last = horizon(**{key: numbers[key] for key in ("gamma", "eps_N", "width", "samples", "delta")})
    typical = typical_inverse_normalization(numbers["dim"])
    return [
        f"E N(v)^2 <= 1/d + eps: without eps, eps_N is hardly below sqrt(d) = {typical:.3g}",
        f"this width allows {last:.2g} steps",
    ]
