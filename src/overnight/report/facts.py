"""The headline of a run: the dozen numbers that stand beside its name."""

from dataclasses import dataclass

from overnight.report.read import Baseline, Best, Evaluation, RunRecord, Summary
from overnight.report.settings import find_setting


@dataclass(frozen=True)
class Facts:
    """What a run reached and with what. None is unknown; `lr` is the peak rate.

    Bytes are tokens, of words and images too.
    """

    state: str
    reason: str
    final: Evaluation | None
    best: Evaluation | None
    baselines: tuple[Baseline, ...]
    parameters: float | None
    steps: int | None
    bytes_seen: float | None
    seconds: float | None
    bytes_per_s: float | None
    batch: float | None
    bytes_per_step: float | None
    lr: float | None
    precision: str
    skipped: float | None


def facts_of(record: RunRecord) -> Facts:
    """Gather the headline of `record`; of a run without a summary, from its last lines.

    A summary older than the last logged step belongs to an earlier leg of a resumed run: only its baselines count.
    """
    last = record.metrics[-1] if record.metrics else None
    ended = record.summary
    if ended and ended.step is not None and last and last.step > ended.step:
        ended = None
    if ended:
        state, reason = ended.state, ended.reason
    else:
        state, reason = "unfinished", "Still running, or killed: there is no summary of its latest step."
    steps = _first(ended.step if ended else None, last.step if last else None)
    tokens = _first(ended.tokens if ended else None, last.tokens if last else None)
    seconds = _first(ended.seconds if ended else None, last.seconds if last else None)
    places = (record.derived, record.environment, record.run)
    per_step = _number(find_setting(places, "tokens_per_step"))
    if per_step is None and tokens is not None and steps:
        per_step = tokens / steps
    scored = headline_evaluations(record)
    return Facts(
        state=state,
        reason=reason,
        final=_final(ended, scored),
        best=_best(ended, scored, record.metric),
        baselines=record.summary.baselines if record.summary else (),
        parameters=_number(find_setting(places, "parameters")),
        steps=None if steps is None else int(steps),
        bytes_seen=tokens,
        seconds=seconds,
        bytes_per_s=tokens / seconds if tokens is not None and seconds else None,
        batch=_number(find_setting(places, "global_batch_size")),
        bytes_per_step=per_step,
        lr=_first(
            _number(find_setting(places, "lr")),
            max((metric.lr for metric in record.metrics if metric.lr is not None), default=None),
        ),
        precision=str(find_setting(places, "precision") or ""),
        skipped=next((m.skipped for m in reversed(record.metrics) if m.skipped is not None), None),
    )


def headline_evaluations(record: RunRecord) -> list[Evaluation]:
    """The evaluations of the split that was scored most often, the training split only if there is no other."""
    scored = [evaluation for evaluation in record.evaluations if evaluation.score is not None]
    splits = [evaluation.split for evaluation in scored]
    main = max(dict.fromkeys(splits), key=lambda split: (split != "train", splits.count(split)), default="")
    return [evaluation for evaluation in scored if evaluation.split == main]


def _final(ended: Summary | None, scored: list[Evaluation]) -> Evaluation | None:
    if ended and ended.final and ended.final.score is not None:
        return ended.final
    return scored[-1] if scored else None


def _best(ended: Summary | None, scored: list[Evaluation], metric: str) -> Evaluation | None:
    if ended and ended.best:
        return next((e for e in scored if _is(e, ended.best)), None) or Evaluation(
            step=ended.best.step, split="held-out", **{metric: ended.best.score}
        )
    best = max if metric == "accuracy" else min
    return best(scored, key=lambda e: e.score or 0.0, default=None)


def _is(evaluation: Evaluation, best: Best) -> bool:
    return evaluation.step == best.step and evaluation.score == best.score


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
