"""When to look at the network during training."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The moments at which a callback measures: the union of all that is asked for, never twice at one step.

    Steps are optimizer steps, as Lightning's ``global_step`` counts them: with gradient accumulation several batches
    make one, with two optimizers one batch makes two. A rule fires as soon as its step has been reached or passed.

    Args:
        at_init: Before the first step.
        at_end: After the last step.
        every_n_epochs: At the end of every ``n``-th epoch.
        every_n_steps: Whenever another ``n`` steps are done.
        steps: At these steps.
        steps_per_decade: At this many logarithmically spaced steps from each power of ten to the next.

    Raises:
        ValueError: If a number is out of range, or nothing is asked for.
        TypeError: If a number is not an integer.

    Example:
        >>> schedule = Schedule(every_n_steps=10)
        >>> schedule.fires_at_step(last=9, now=11), schedule.fires_at_step(last=11, now=19)
        (True, False)
    """

    at_init: bool = True
    at_end: bool = True
    every_n_epochs: int | None = None
    every_n_steps: int | None = None
    steps: Sequence[int] = ()
    steps_per_decade: int | None = None

    def __post_init__(self) -> None:
        for name in ("every_n_epochs", "every_n_steps", "steps_per_decade"):
            _check_count(name, getattr(self, name))
        if isinstance(self.steps, str) or not isinstance(self.steps, Sequence):
            raise TypeError(f"Expected `steps` to be a sequence of steps, but got {self.steps!r}.")
        for step in self.steps:
            _check_count("steps", step, optional=False)
        # A tuple can be hashed and compared; a list from a config file cannot.
        object.__setattr__(self, "steps", tuple(self.steps))
        if not (self.at_init or self.at_end or self.steps or self.every_n_epochs or self._by_steps):
            raise ValueError("Expected a schedule that fires, but nothing is asked for; set `every_n_epochs`.")

    @property
    def _by_steps(self) -> bool:
        return bool(self.every_n_steps or self.steps or self.steps_per_decade)

    def fires_at_step(self, last: int, now: int) -> bool:
        """Whether a step rule was reached after step ``last`` and up to step ``now``."""
        if now <= last:
            return False
        if self.every_n_steps and now // self.every_n_steps > last // self.every_n_steps:
            return True
        if self.steps_per_decade and _log_count(now, self.steps_per_decade) > _log_count(last, self.steps_per_decade):
            return True
        return any(last < step <= now for step in self.steps)

    def fires_at_epoch(self, done: int) -> bool:
        """Whether the epoch rule fires when ``done`` epochs are complete."""
        return done > 0 and self.every_n_epochs is not None and done % self.every_n_epochs == 0

    def check_reached(self, max_epochs: int | None, max_steps: int) -> None:
        """Raise ValueError if no rule can fire within the limits of the training; -1 or None is no limit.

        Example:
            >>> Schedule(at_init=False, at_end=False, every_n_epochs=50).check_reached(max_epochs=20, max_steps=-1)
            Traceback (most recent call last):
            ValueError: Expected a schedule that fires within 20 epochs, but Schedule(...) does not; ...
        """
        if self.at_init or self.at_end:
            return
        epochs = max_epochs if max_epochs is not None and max_epochs >= 0 else None
        steps = max_steps if max_steps >= 0 else None
        by_epoch = self.every_n_epochs is not None and (epochs is None or self.every_n_epochs <= epochs)
        first_log_step = 1 if self.steps_per_decade else None
        first_step = min([s for s in (self.every_n_steps, first_log_step, *self.steps) if s], default=None)
        by_step = first_step is not None and (steps is None or first_step <= steps)
        if not (by_epoch or by_step):
            limits = " and ".join(f"{n} {unit}" for n, unit in ((epochs, "epochs"), (steps, "steps")) if n is not None)
            raise ValueError(
                f"Expected a schedule that fires within {limits}, but {self} does not; train longer or look sooner."
            )


def _log_count(step: int, per_decade: int) -> int:
    """How many of the steps ``round(10**(j / per_decade))`` lie in ``1 .. step``."""
    count = 0
    while round(10 ** (count / per_decade)) <= step:
        count += 1
    return count


def _check_count(name: str, value: int | None, optional: bool = True) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Expected `{name}` in whole numbers, 1 or more, but got {value!r}.")
    if value < 1:
        raise ValueError(f"Expected `{name}` of 1 or more, but got {value}.")
