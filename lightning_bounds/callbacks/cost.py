"""What a look at the Jacobian will cost, said before the first one."""

from lightning_bounds.jacobian.plan import calibrate, plan
from lightning_bounds.lightning import pl
from lightning_bounds.snapshot import Snapshot


def foresee(trainer: pl.Trainer, snapshot: Snapshot, rank: int | None, max_seconds: float | None, who: str) -> None:
    """Say how long one look will take and how many bytes, from the timing of a few samples.

    Args:
        trainer: Of several processes all take the prediction of the first.
        snapshot: What will be looked at.
        rank: How many leading singular values; all if not given.
        max_seconds: How long a look may take.
        who: The callback.

    Raises:
        ValueError: If it will take longer.
    """
    jacobian, probe = snapshot.jacobian, snapshot.probe
    predicted = plan(jacobian, rank, probe.memory_bytes, probe.torch_dtype, calibrate(jacobian))
    cost = predicted.costs[predicted.method]
    seconds = trainer.strategy.broadcast(cost.seconds)
    what = f"{jacobian.num_samples} {probe.split} samples, a Jacobian of {jacobian.shape[0]} x {jacobian.shape[1]}"
    if max_seconds is not None and seconds > max_seconds:
        raise ValueError(
            f"Expected a look of at most {max_seconds:g} s, but one at {what}, is predicted to take {seconds:.2g} s; "
            "look at fewer samples or layers, ask for a `rank`, or raise `max_seconds`."
        )
    pl.utilities.rank_zero_info(
        f"{who}: a look at {what}, will take about {seconds:.2g} s and {cost.bytes / 1e6:.3g} MB ({predicted.method})."
    )
