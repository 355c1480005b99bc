"""Each setting of a scaled recipe, with a sentence on why it is what it is, and whose finding that is."""

from collections.abc import Sequence
from dataclasses import dataclass

from overnight.scaling import Hyperparameters
from overnight.scaling.companions import wants_trust_ratio

GOYAL = "Goyal et al. 2017, arXiv 1706.02677"
HOFFER = "Hoffer et al. 2017, arXiv 1705.08741"
LEGW = "You et al. 2019, arXiv 1901.08256"
SDE = "Malladi et al. 2022, arXiv 2205.10287"
ADASCALE = "Johnson et al. 2020, arXiv 2007.05105"
MCCANDLISH = "McCandlish et al. 2018, arXiv 1812.06162"
MAREK = "Marek et al. 2025, arXiv 2507.07101"
DECAY = "Wang and Aitchison 2024, arXiv 2405.13698"
AVERAGE = "Busbridge et al. 2023, arXiv 2307.13813"
NADO = "Nado et al. 2021, arXiv 2102.06356"
KUMAR = "Kumar et al. 2019, arXiv 1909.09756"
SHALLUE = "Shallue et al. 2019, arXiv 1811.03600"

RULES = ("none", "linear", "sqrt", "legw", "adam_sde", "adascale", "date")


@dataclass(frozen=True)
class Setting:
    """One line of a plan.

    Attributes:
        name: of the setting.
        before, after: as text.
        why: one sentence.
        reference: who found that.
    """

    name: str
    before: str
    after: str
    why: str
    reference: str


def settings_of(
    rule: str,
    before: Hyperparameters,
    after: Hyperparameters,
    *,
    adaptive: bool,
    measured: bool,
    trust_ratio: bool,
    layers: Sequence[float],
    decay: str,
    fixed: Sequence[str] = (),
) -> tuple[Setting, ...]:
    """The lines of a plan, from the rate to the trust ratio.

    Args:
        rule: that made it.
        before, after: hyper-parameters at both batches.
        adaptive: the optimizer normalises its update.
        measured: there is a noise scale to go by.
        trust_ratio: it is LARS or LAMB.
        layers: relative steps of the layers, measured; empty if they were not.
        decay: the weight decay as text, where no rule touches it.
        fixed: what the user set.
    """
    k = after.global_batch_size / before.global_batch_size
    rows = [
        _row("rate", before.lr, after.lr, *_rate(rule, adaptive, measured)),
        Setting("warm-up", _steps(before), _steps(after), *_warmup(rule, before, after)),
        Setting("length", _length(before), _length(after), *_long(rule, before, after)),
    ]
    if before.betas is not None:
        rows.append(_row("betas", before.betas, after.betas, *_betas(rule, before, after)))
        rows.append(_row("ε", before.eps, after.eps, *_eps(rule, before, after)))
    if before.momentum is not None:
        rows.append(
            _row("momentum", before.momentum, after.momentum, "Stays; tuners raised it only from 32K on.", KUMAR)
        )
    if before.weight_decay is None:
        why = "Stays: none, or inside the gradient or a trust ratio, where weights do not shrink by rate · decay."
        rows.append(Setting("weight decay", decay, decay, why, DECAY))
    else:
        rows.append(_row("weight decay", before.weight_decay, after.weight_decay, *_weight_decay(before, after)))
    rows.append(_row("clip", before.max_norm, after.max_norm, *_clip(rule, before, after)))
    if before.ema_decay is not None:
        why = (
            "Keeps the average's half-life in samples."
            if after.ema_decay != before.ema_decay
            else "Stays under this rule."
        )
        rows.append(_row("weight average", before.ema_decay, after.ema_decay, why, AVERAGE))
    rows.append(_trust_ratio(k, trust_ratio, layers))
    return tuple(_marked(row, fixed) for row in rows)


def _rate(rule: str, adaptive: bool, measured: bool) -> tuple[str, str]:
    said = {
        "none": ("Stays: what a larger batch does to a recipe that nobody adapts.", SHALLUE),
        "linear": ("Times k: k small steps along nearly the same gradient are one large one.", GOYAL),
        "sqrt": ("Times √k: averaging k times the samples, the variance of an update stays.", HOFFER),
        "legw": ("Times √k: averaging k times the samples, the variance of an update stays.", LEGW),
        "adam_sde": ("Times √k: the same stochastic differential equation, with noise in the denominator too.", SDE),
        "adascale": ("Times the gain r: as many old steps as a new one is worth at this noise scale.", ADASCALE),
    }
    if rule != "date":
        return said[rule]
    if not measured:
        return "Times √k, LEGW's: there is no noise scale to go by.", LEGW
    if adaptive:
        return "Times √r, r the gain: the update is divided by its own norm, which noise makes.", MCCANDLISH
    return "Times the gain r: as many old steps as a new one is worth at this noise scale.", ADASCALE


def _warmup(rule: str, before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if not before.warmup_samples:
        return "The baseline has none, and k times none is none.", LEGW
    if rule in ("legw", "date"):
        short = after.warmup_steps < before.warmup_steps
        less = " As that would be too long a part of the run, it is cut." if short else ""
        return f"Keeps its steps: how sharp the loss is early on is a matter of steps, not of samples.{less}", LEGW
    if rule == "adascale":
        return "Is a part of the schedule, which stretches by k/r.", ADASCALE
    return "Keeps its samples, so k times fewer steps.", GOYAL


def _long(rule: str, before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if before.total_samples is None:
        return "A budget of minutes; how many samples that is was not measured.", "docs/scale.md"
    if after.total_samples == before.total_samples:
        return "The same samples: this rule holds that nothing is lost by the larger batch.", LEGW
    return "r times fewer steps: past the noise scale the run lengthens instead of losing quality.", MCCANDLISH


def _betas(rule: str, before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if after.betas == before.betas:
        return "Stay under this rule.", LEGW
    if rule == "adam_sde":
        return "1 − β times k: the moments average over the same number of samples.", SDE
    return "β₂ to the r and β₁ to the √r: the second moment keeps its half-life in the run.", MAREK


def _eps(rule: str, before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if after.eps == before.eps:
        return "Stays under this rule.", LEGW
    return "Falls as the noise in √v̂ does.", SDE


def _weight_decay(before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if after.weight_decay == before.weight_decay:
        return "Stays under this rule.", LEGW
    return "Keeps rate · decay · steps, so how much the weights shrink over the run.", DECAY


def _clip(rule: str, before: Hyperparameters, after: Hyperparameters) -> tuple[str, str]:
    if before.max_norm is None:
        return "Nothing is clipped.", "docs/scaling.md"
    if after.max_norm == before.max_norm:
        return "Stays; with less noise it clips less often, which raises the effective rate: watch the clip rate.", LEGW
    return "Falls with the gradient's norm, so that clipping is as frequent as before.", MCCANDLISH


def _trust_ratio(k: float, on: bool, layers: Sequence[float]) -> Setting:
    wanted = wants_trust_ratio(k, layers)
    moving = [value for value in layers if value > 0]
    spread = f"; layers' relative steps differ {max(moving) / min(moving):.0f}-fold" if moving else ""
    state = "on" if on else "off"
    if on:
        why = f"Stays, as the baseline was tuned with it (k = {k:g}{spread})."
    elif wanted:
        why = f"Stays: LARS or LAMB may help at k = {k:g}{spread}, but they want a baseline that was tuned with them."
    else:
        why = f"Stays: at k = {k:g}{spread} plain momentum and Adam do as well."
    return Setting("trust ratio", state, state, why, NADO)


def _marked(row: Setting, fixed: Sequence[str]) -> Setting:
    return Setting(row.name, row.before, row.after, "As you set it.", "--set") if row.name in fixed else row


def _row(name: str, before: object, after: object, why: str, reference: str) -> Setting:
    return Setting(name, _written(before), _written(after), why, reference)


def _steps(found: Hyperparameters) -> str:
    return f"{found.warmup_steps:,} steps" if found.warmup_samples else "none"


def _length(found: Hyperparameters) -> str:
    return (
        "unknown" if found.total_samples is None else f"{found.total_samples:,.0f} samples, {found.total_steps:,} steps"
    )


def _written(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"{item:.4g}" for item in value)
    return f"{value:.4g}"
