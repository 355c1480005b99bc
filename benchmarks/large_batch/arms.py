"""From a frozen baseline to the run of an arm at a batch."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.large_batch.applications import Application, Choice
from benchmarks.large_batch.frozen import Frozen
from benchmarks.large_batch.optimizers import NOT_ADAPTIVE
from overnight.errors import UserError
from overnight.scaling import Hyperparameters, rules
from overnight.scaling.rules import LONGEST_WARMUP
from overnight.train.run import Run
from overnight.tune.baseline import Baseline, baseline_of, scaled_run
from overnight.tune.online import online_run

RULES = ("base", "none", "linear", "sqrt", "legw", "adam_sde", "adascale", "date", "oracle")
CONTROLS = {
    "": "",
    "equal": "the samples of the other arms, of a rule that lengthens runs",
    "twice": "twice the epochs: what the rules that lengthen runs may take",
    "accumulate": "micro-batches of the base batch",
    "lanes": "the base batch's lanes, and k windows of each in an update (words)",
}


@dataclass(frozen=True)
class Arm:
    """RULE[:OPTIMIZER][+CONTROL].

    Attributes:
        rule: a name in ``RULES``; ``base`` is the base batch, which all others are compared with.
        optimizer: empty for the application's own.
        control: a name in ``CONTROLS``.
    """

    rule: str
    optimizer: str = ""
    control: str = ""

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read an arm.

        Raises:
            UserError: for a rule or a control that there is not.

        >>> Arm.parse("legw:lamb+twice")
        Arm(rule='legw', optimizer='lamb', control='twice')
        """
        what, _, control = text.partition("+")
        rule, _, optimizer = what.partition(":")
        if rule not in RULES or control not in CONTROLS:
            raise UserError(
                f"There is no arm {text!r}.",
                f"It is RULE[:OPTIMIZER][+CONTROL] with rules {', '.join(RULES)} and controls "
                f"{', '.join(name for name in CONTROLS if name)}.",
            )
        return cls(rule, optimizer, control)

    def __str__(self) -> str:
        return (
            self.rule + (f":{self.optimizer}" if self.optimizer else "") + (f"+{self.control}" if self.control else "")
        )


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        app: application.
        arm: rule, optimizer, control.
        batch: of an update.
        seed: of weights and data.
        epochs: length; None for the application's.
    """

    app: Application
    arm: Arm
    batch: int
    seed: int = 0
    epochs: float | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.batch}-{str(self.arm).replace(':', '-')}-{self.seed}"

    @property
    def k(self) -> float:
        """Batch over base batch."""
        return self.batch / self.app.batch

    def run(self, corpus: Path, frozen: Frozen) -> Run:
        """What is trained.

        Raises:
            UserError: for a rule that does not go with the optimizer, the batch or the application.
        """
        _check(self)
        optimizer = self.arm.optimizer or self.app.optimizer
        lr, steps = frozen.rate(optimizer), self.app.warmup_steps
        if self.arm.rule == "oracle":
            optimizer, lr = frozen.oracle(self.batch)
            return oracle_run(self.app, corpus, optimizer, lr, self.batch, self._epochs, self.seed)
        windows = round(self.k) if self.arm.control == "lanes" else 1
        choice = Choice(optimizer, lr, steps if windows == 1 else 0, self._epochs, self.seed, windows=windows)
        base = baseline_of(self.app.make(corpus, choice))
        if self.arm.rule == "base":
            return base.run
        if self.arm.rule in ("date", "adascale"):
            return self._online(base)
        return self._planned(base, windows)

    @property
    def _epochs(self) -> float:
        epochs = self.app.epochs if self.epochs is None else self.epochs
        return epochs * 2 if self.arm.control == "twice" else epochs

    def _planned(self, base: Baseline, windows: int) -> Run:
        batch, notes = self.batch, []
        tuned, total = base.tuned, base.tuned.total_samples
        if windows > 1 and total is not None:  # the same rule, counted in lanes of one window
            warmup = float(self.app.warmup_steps * self.app.batch)
            tuned = replace(tuned, total_samples=total * windows, warmup_samples=warmup)
            total = tuned.total_samples
        if self.arm.rule == "legw" and total is not None and tuned.warmup_samples * self.k >= total:
            steps = math.ceil(LONGEST_WARMUP * total / batch)
            tuned = replace(tuned, warmup_samples=LONGEST_WARMUP * total / self.k)
            notes = [f"LEGW's {self.app.warmup_steps} warm-up steps cut to {steps}, 30 % of the run"]
        try:
            scaled = getattr(rules, self.arm.rule)(tuned, global_batch_size=batch)
        except ValueError as error:
            raise UserError(str(error), "Take another arm or batch.") from error
        found: Hyperparameters = scaled.hyperparameters
        if windows > 1:
            lanes = self.app.batch
            found = replace(
                found,
                global_batch_size=lanes,
                warmup_samples=found.warmup_samples / windows,
                total_samples=base.tuned.total_samples,
            )
        run = scaled_run(base, found, self._micro(windows), "; ".join([scaled.explanation, *notes]))
        return _decay_after_warmup(run)

    def _micro(self, windows: int) -> int:
        if windows > 1:
            return self.app.batch
        most = self.app.batch if self.arm.control == "accumulate" else self.app.micro
        return micro_batch(self.batch, most)

    def _online(self, base: Baseline) -> Run:
        cut = replace(base.run, micro_batch_size=_cut(self.batch, self.app))
        run = online_run(replace(base, run=cut), self.batch, self.app.micro, ())
        assert run.adapt is not None
        settings: dict[str, Any] = dict(run.adapt.keywords)
        if self.arm.rule == "adascale":  # the gain on the rate and in the schedule's time, and nothing else of DATE
            settings |= {"adaptive": False, "batch_warmup": 0.0, "rollbacks": 0}
            settings["fixed"] = ("betas", "eps", "weight_decay", "max_norm")
        if self.arm.control == "equal":
            settings["fixed"] = (*settings.get("fixed", ()), "total_samples")
        return replace(run, adapt=partial(run.adapt.func, **settings))


def oracle_run(
    app: Application,
    corpus: Path,
    optimizer: str,
    lr: float,
    batch: int,
    epochs: float,
    seed: int = 0,
    trial: bool = False,
) -> Run:
    """A run at a batch with a rate of its own, and the base's warm-up steps within 30 % of it."""
    base = baseline_of(app.make(corpus, Choice(optimizer, lr, app.warmup_steps, epochs, seed, trial)))
    total = base.tuned.total_samples or math.inf
    warmup = min(float(app.warmup_steps * batch), LONGEST_WARMUP * total)
    found = replace(base.tuned, global_batch_size=batch, warmup_samples=warmup)
    return _decay_after_warmup(scaled_run(base, found, micro_batch(batch, app.micro), "tuned at this batch"))


def micro_batch(batch: int, most: int) -> int:
    """The largest divisor of the batch that is not above ``most``: the result is the same, in less memory."""
    return max(size for size in range(1, min(batch, most) + 1) if batch % size == 0)


def _cut(batch: int, app: Application) -> int:
    """Micro-batches no smaller than the base batch, by which the batch can be halved often: 16 halves are enough."""
    sizes = [size for size in range(app.batch, min(batch // 2, app.micro) + 1) if batch % size == 0]
    if not sizes:
        return micro_batch(batch, batch // 2)
    return max(sizes, key=lambda size: (math.gcd(batch // size, 16), size))


def _decay_after_warmup(run: Run) -> Run:
    start, warmup = (run.schedule.keywords.get(name) for name in ("start_samples", "warmup_samples"))
    if start is None or warmup is None or start >= warmup:
        return run
    return replace(run, schedule=partial(run.schedule.func, **{**run.schedule.keywords, "start_samples": warmup}))


def _check(cell: Cell) -> None:
    arm, app = cell.arm, cell.app
    if (arm.rule == "base") != (cell.batch == app.batch):
        raise UserError(
            f"The arm {arm} is not for batch {cell.batch}.",
            f"base is for batch {app.batch}, and the others for larger ones.",
        )
    if cell.batch < app.batch:
        raise UserError(f"Batch {cell.batch} is below the base of {app.batch}.", "Take a larger one.")
    if arm.rule == "oracle" and (arm.optimizer or arm.control):
        raise UserError("The oracle has no other optimizer and no control.", "Write oracle.")
    if arm.rule == "adascale" and (arm.optimizer or app.optimizer) not in NOT_ADAPTIVE:
        raise UserError("AdaScale is for SGD.", "Write adascale:nesterov, or leave it out.")
    if arm.control == "equal" and arm.rule not in ("date", "adascale"):
        raise UserError(f"The samples of {arm.rule} are equal already.", "Leave out +equal.")
    if arm.control == "lanes" and not (app.name.startswith("ptb") and arm.rule in ("none", "linear", "sqrt", "legw")):
        raise UserError(
            "The control +lanes is for word models and rules that plan.", "Write legw+lanes, with a PTB application."
        )
    if arm.control == "lanes" and cell.batch % app.batch:
        raise UserError(f"Batch {cell.batch} is no multiple of {app.batch} lanes.", "Take one.")
