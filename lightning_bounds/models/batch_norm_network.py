"""The shallow ReLU network with batch norm, whose statistics are those of the whole training set."""

import math

import torch
from torch import Generator, Tensor, nn

from lightning_bounds.lightning import pl
from lightning_bounds.models.choice import chosen
from lightning_bounds.theory.arguments import check_count, check_not_negative
from lightning_bounds.theory.batch_norm_margin.network import GRADIENTS, pre_activations
from lightning_bounds.theory.batch_norm_margin.normalization import Statistics, projected_variance


class BatchNormNetwork(nn.Module):
    """Network ``f(x; a, c, V) = Σ_j a_j relu(c_j <v_j / N(v_j), x - μ>)`` with ``N(v)² = v^T Σ v + ε``.

    ``μ`` and ``Σ`` are the mean and the covariance (divided by ``n``) of the whole training set, given once by
    :meth:`set_statistics`, in training and in evaluation: no batch changes them, and there are no running averages.
    That is ``BatchNorm1d`` in training mode on the whole set, between ``V`` and ``a``, without shift and biases. Where
    ``N(v_j) = 0`` the unit is zero.

    A gradient by ``V`` passes through ``N(v_j)`` as well. ``gradient`` says how far:

    * ``"full"``: through mean and variance, ``a_j c_j o_j / N_j (I - Σ v_j v_j^T / N_j²) (x - μ)``, as the paper
      has it, ``o_j`` being 1 where the unit is active;
    * ``"mean"``: ``a_j c_j o_j / N_j (x - μ)``;
    * ``"none"``: ``a_j c_j o_j / N_j x``, as in evaluation mode of ``BatchNorm1d``.

    Initial weights: ``a ~ N(0, I/m)``, ``v_j ~ N(0, I/d)``, ``c = 1``. Inputs of more than two dimensions are
    flattened. The paper has one output; of several, each has its own row ``a``.

    Args:
        in_features: ``d``, the number of input features.
        width: ``m``, the number of hidden units.
        out_features: ``K``, the number of outputs.
        eps: ``ε``, 0 or more; part of ``N`` in every quantity of the theory.
        gradient: Which statistics are differentiated, see above.
        seed: Non-negative seed of the initial weights, which then are the same in every precision and leave the global
            random state alone; by default that state draws them, as for every module of torch.

    Attributes:
        output_weights: ``a``, shape ``(K, m)``.
        scales: ``c``, shape ``(m,)``.
        directions: ``V``, shape ``(m, d)``, one row per hidden unit.
        mean: ``μ``, shape ``(d,)``.
        deviations: ``D`` with ``D^T D / d = Σ``, shape ``(d, d)``: it stands for the deviations of all samples.
        num_samples: ``n``, how many samples the statistics are of; 0 before they are set.

    Raises:
        ValueError: If a size, ``eps`` or the seed is out of range, or ``gradient`` is unknown.

    References:
        Test error guarantees for batch-normalized shallow ReLU networks trained with gradient descent, section 1.

    Example:
        >>> network = BatchNormNetwork(in_features=3, width=8, seed=0)
        >>> network.set_statistics(torch.eye(3))
        >>> network(torch.eye(3)).shape
        torch.Size([3, 1])
        >>> bool((network(2 * torch.eye(3)) == network(torch.eye(3))).all())
        False
    """

    mean: Tensor
    deviations: Tensor
    num_samples: Tensor

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int = 1,
        eps: float = 0.0,
        gradient: str = "full",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("width", width)
        check_count("out_features", out_features)
        check_not_negative("eps", eps)
        if seed is not None:
            check_count("seed", seed, least=0)
        self.eps = float(eps)
        self.gradient = chosen("gradient", gradient, {name: name for name in GRADIENTS})
        generator = None if seed is None else Generator().manual_seed(seed)
        dtype = torch.get_default_dtype()
        # In float64 on the CPU, so that a seed means the same network in every precision and on every device.
        a = torch.randn(out_features, width, generator=generator, dtype=torch.float64, device="cpu") / math.sqrt(width)
        V = torch.randn(width, in_features, generator=generator, dtype=torch.float64, device="cpu")
        self.output_weights = nn.Parameter(a.to(dtype))
        self.scales = nn.Parameter(torch.ones(width, dtype=dtype))
        self.directions = nn.Parameter((V / math.sqrt(in_features)).to(dtype))
        self.register_buffer("mean", torch.zeros(in_features, dtype=dtype))
        self.register_buffer("deviations", torch.zeros(in_features, in_features, dtype=dtype))
        self.register_buffer("num_samples", torch.zeros((), dtype=torch.int64))

    def set_statistics(self, inputs: Tensor) -> None:
        """Take ``μ`` and ``Σ`` from the whole training set, for training and for evaluation.

        Args:
            inputs: All training inputs, shape ``(n, d)``, or ``(n, ...)`` with ``d`` numbers per sample.

        Raises:
            ValueError: If there are fewer than two samples, or they are not finite or of another size.
        """
        d = len(self.mean)
        if inputs.dim() < 2 or len(inputs) < 2 or inputs[0].numel() != d:
            raise ValueError(f"Expected two or more inputs of {d} features, but got shape {tuple(inputs.shape)}.")
        samples = inputs.detach().double().flatten(1)
        if not bool(samples.isfinite().all()):
            bad = (~samples.isfinite().all(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"Expected finite inputs, but samples {bad[:10]} are NaN or infinite; remove them.")
        mean = samples.mean(dim=0)
        # A root of Σ in the place of Σ keeps the digits of small variances, and its size is that of no batch.
        root = torch.linalg.qr((samples - mean) * math.sqrt(d / len(samples)), mode="r").R
        with torch.no_grad():
            self.mean.copy_(mean)
            self.deviations.zero_()[: len(root)].copy_(root)
            self.num_samples.fill_(len(samples))

    @property
    def statistics(self) -> Statistics:
        """``μ`` and deviations that have the covariance ``Σ`` of the training set.

        Raises:
            RuntimeError: If they are not set.
        """
        if not int(self.num_samples):
            raise RuntimeError(
                "Expected statistics of the training set, but none are set; call `set_statistics(train_inputs)`, "
                "or give the Trainer a `TrainingSetStatistics()`."
            )
        return Statistics(self.mean, self.deviations)

    def normalization(self) -> Tensor:
        """``N(v_j) = √(v_j^T Σ v_j + ε)`` of every hidden unit, shape ``(m,)``.

        Raises:
            RuntimeError: If the statistics are not set.
        """
        statistics = self.statistics
        projections = statistics.deviations @ self.directions.T
        return (projected_variance(self.directions, projections, statistics) + self.eps).sqrt()

    def preactivations(self, inputs: Tensor) -> Tensor:
        """``<v_j / N(v_j), x - μ>``, shape ``(n, m)``; 0 where ``N(v_j) = 0``.

        Args:
            inputs: Shape ``(n, d)``, or ``(n, ...)`` with ``d`` numbers per sample.

        Raises:
            RuntimeError: If the statistics are not set.
        """
        samples = inputs.flatten(1)
        return pre_activations(samples, self.statistics, self.directions, eps=self.eps, gradient=self.gradient)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``f(x)``.

        Args:
            inputs: Shape ``(n, d)``, or ``(n, ...)`` with ``d`` numbers per sample.

        Returns:
            Outputs, shape ``(n, K)``.

        Raises:
            RuntimeError: If the statistics are not set.
        """
        return torch.relu(self.scales * self.preactivations(inputs)) @ self.output_weights.T


class TrainingSetStatistics(pl.Callback):
    """Gives every :class:`BatchNormNetwork` of a module the statistics of the data module's ``train_inputs``.

    That is done before a training, a validation or a test begins, so that the network can be evaluated untrained.

    Example:
        >>> from lightning_bounds.models.supervised import Supervised
        >>> TrainingSetStatistics().networks(Supervised(BatchNormNetwork(in_features=3, width=2)))[0].scales.shape
        torch.Size([2])
    """

    def networks(self, pl_module: pl.LightningModule) -> list[BatchNormNetwork]:
        """All networks that have to be given their statistics.

        Raises:
            ValueError: If there is none.
        """
        found = [part for part in pl_module.modules() if isinstance(part, BatchNormNetwork)]
        if not found:
            raise ValueError(
                f"Expected a BatchNormNetwork inside {type(pl_module).__name__}, but there is none; "
                "leave TrainingSetStatistics out of the callbacks."
            )
        return found

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Set them, once the data module has loaded its data.

        Raises:
            ValueError: If the module has no such network, or the Trainer no data module with ``train_inputs``.
        """
        networks = self.networks(pl_module)
        inputs = getattr(getattr(trainer, "datamodule", None), "train_inputs", None)
        if not isinstance(inputs, Tensor):
            raise ValueError(
                "Expected a data module with `train_inputs`, but the Trainer has none; "
                "call `network.set_statistics(train_inputs)` and leave TrainingSetStatistics out of the callbacks."
            )
        for network in networks:
            network.set_statistics(inputs.to(network.mean.device))
