"""Nearly-linear networks: a bound on the error that is known before the training, and how close to it one comes."""

from lightning_bounds.theory.nearly_linear.aligned import aligned_margin_risk
from lightning_bounds.theory.nearly_linear.apriori import apriori_bound
from lightning_bounds.theory.nearly_linear.corrected import DerivativeNorms, corrected_derivative_norms
from lightning_bounds.theory.nearly_linear.deviation import counting_term, deviation_bound, deviation_factor
from lightning_bounds.theory.nearly_linear.envelopes import (
    blow_up_time,
    derivative_norm_bound,
    norm_antiderivative,
    weight_norm_bound,
)
from lightning_bounds.theory.nearly_linear.incomplete_gamma import upper_incomplete_gamma
from lightning_bounds.theory.nearly_linear.limits import (
    vanishing_deviation,
    vanishing_deviation_at,
    vanishing_training_time,
)
from lightning_bounds.theory.nearly_linear.network import (
    input_layer_ratio,
    network_outputs,
    projected_loss,
    rank_one,
    rescaled,
)
from lightning_bounds.theory.nearly_linear.proxies import (
    Proxies,
    Risks,
    proxy_bound,
    proxy_outputs,
    risks,
    second_order_proxy,
)
from lightning_bounds.theory.nearly_linear.scan import Scan, apriori_scan
from lightning_bounds.theory.nearly_linear.training_time import linear_weight_norm, training_time
from lightning_bounds.theory.nearly_linear.whitening import Whitening, strength, whiten

__all__ = [
    "DerivativeNorms",
    "Proxies",
    "Risks",
    "Scan",
    "Whitening",
    "aligned_margin_risk",
    "apriori_bound",
    "apriori_scan",
    "blow_up_time",
    "corrected_derivative_norms",
    "counting_term",
    "derivative_norm_bound",
    "deviation_bound",
    "deviation_factor",
    "input_layer_ratio",
    "linear_weight_norm",
    "network_outputs",
    "norm_antiderivative",
    "projected_loss",
    "proxy_bound",
    "proxy_outputs",
    "rank_one",
    "rescaled",
    "risks",
    "second_order_proxy",
    "strength",
    "training_time",
    "upper_incomplete_gamma",
    "vanishing_deviation",
    "vanishing_deviation_at",
    "vanishing_training_time",
    "weight_norm_bound",
    "whiten",
]
