"""Which curves a page shows, and the scale of each."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from overnight.report import curves, units
from overnight.report.canvas import Canvas, Draft, Panel
from overnight.report.curves import Series
from overnight.report.entry import Entry, baselines_of
from overnight.report.facts import headline_evaluations


def panels_of(entries: Sequence[Entry]) -> list[Panel]:
    """The panels that these runs have something to show in, in reading order."""
    canvas = Canvas(entries)
    makers: tuple[Callable[[Canvas], Panel | None], ...] = (
        _bits, _loss, _close_up, _lr, _throughput, _waiting, _sent, _grad_norm, _clipped, _skipped, _loss_scale
    )  # fmt: skip
    return [panel for make in makers if (panel := make(canvas)) is not None]


def _bits(canvas: Canvas) -> Panel | None:
    training = canvas.logged(lambda m: m.score, label="training", smoothed=True)
    scored = _held_out(canvas)
    if not training and not scored:
        return None
    # what a share of all is better than lies far below any model that learns
    baselines = {} if canvas.measure.higher_is_better else baselines_of(canvas.entries)
    y = curves.fit_axis([*_settled(training), *_scored_span(scored, from_share=0.02), *baselines.values()])
    caption = []
    if any(draft.kind == "raw" for draft in training):
        caption.append("Training: thin as logged, thick the mean over about 3 % of the run.")
    if scored:
        caption.append("Held-out: dots, with 95 % intervals.")
    top = max((value for draft in training for value in _present(draft.ys[:1])), default=0.0)
    if top > y.high:
        caption.append(f"Training begins above the frame, at {canvas.measure.write(top)}.")
    text = " ".join([*caption, f"{canvas.measure.better.capitalize()}."])
    return canvas.panel(
        canvas.measure.title, canvas.measure.axis, text, y, [*training, *scored], wide=True, references=baselines
    )


def _loss(canvas: Canvas) -> Panel | None:
    if any(metric.score is not None for entry in canvas.entries for metric in entry.record.metrics):
        return None
    drafts = canvas.logged(lambda m: m.loss, label="training", smoothed=True)
    if not drafts:
        return None
    y = curves.fit_axis(_settled(drafts))
    return canvas.panel(
        "Training loss", "nats/token" if canvas.measure.of_text else "nats", "Lower is better.", y, drafts, wide=True
    )


def _close_up(canvas: Canvas) -> Panel | None:
    drafts = _held_out(canvas)
    if not any(draft.kind == "dot" and len(_present(draft.ys)) > 2 for draft in drafts):
        return None
    y = curves.fit_axis(_scored_span(drafts, from_share=0.3))
    caption = "The later evaluations, close up, with 95 % intervals."
    title = f"Held-out {canvas.measure.name}, close up"
    return canvas.panel(title, canvas.measure.axis, caption, y, drafts)


def _lr(canvas: Canvas) -> Panel | None:
    peak = max((m.lr for entry in canvas.entries for m in entry.record.metrics if m.lr is not None), default=0.0)
    factor, name = units.power_of_ten(peak)
    drafts = canvas.logged(lambda m: m.lr, unit=factor)
    if not drafts:
        return None
    y = curves.fit_axis(_values(drafts), floor=0.0)
    return canvas.panel("Learning rate", name, "The rate of the optimizer at each step.", y, drafts)


def _throughput(canvas: Canvas) -> Panel | None:
    rates = [m.tokens_per_s for entry in canvas.entries for m in entry.record.metrics if m.tokens_per_s is not None]
    factor, prefix = units.si_prefix(max(curves.middle(rates), default=0.0))
    drafts = canvas.logged(lambda m: m.tokens_per_s, unit=factor, smoothed=True)
    if not drafts:
        return None
    y = curves.fit_axis(curves.middle(_values(drafts)), floor=0.0)
    counted = canvas.measure.counted
    unit = f"{prefix}B/s" if counted == "bytes" else f"{prefix} {counted}/s".strip()
    what = f"{counted.capitalize()}{' of text' if canvas.measure.of_text else ''} trained on each second."
    return canvas.panel("Throughput", unit, what, y, drafts)


def _waiting(canvas: Canvas) -> Panel | None:
    alone, milli = len(canvas.entries) == 1, 1e-3
    computing = canvas.logged(lambda m: m.computing_seconds, label="computing", unit=milli, smoothed=alone)
    waiting = canvas.logged(lambda m: m.waiting_seconds, label="waiting", unit=milli, smoothed=alone)
    if not waiting:
        return None
    caption = "What a step takes, mean over the ranks: computing, and waiting for what the ranks exchange."
    if alone:
        waiting = [replace(draft, tone=1) for draft in waiting]
    else:
        computing = [replace(draft, kind="raw") for draft in computing]
        caption += " Thin computing, thick waiting."
    drafts = [*computing, *waiting]
    y = curves.fit_axis([v for draft in drafts for v in curves.middle(_present(draft.ys))], floor=0.0)
    return canvas.panel("Computing and waiting", "ms a step", caption, y, drafts)


def _sent(canvas: Canvas) -> Panel | None:
    sent = [m.sent_bytes for entry in canvas.entries for m in entry.record.metrics if m.sent_bytes is not None]
    factor, prefix = units.si_prefix(max(sent, default=0.0))
    drafts = canvas.logged(lambda m: m.sent_bytes, unit=factor)
    if not drafts:
        return None
    y = curves.fit_axis(_values(drafts), floor=0.0)
    caption = "What each rank sends to the others, if exchanges go around a ring; without headers."
    return canvas.panel("Bytes exchanged", f"{prefix}B a step", caption, y, drafts)


def _grad_norm(canvas: Canvas) -> Panel | None:
    drafts = canvas.logged(lambda m: m.grad_norm, smoothed=True)
    if not drafts:
        return None
    span = curves.middle((value for value in _values(drafts) if value > 0), 0.995)
    log = bool(span) and span[1] > 30 * span[0]
    y = curves.fit_axis(span, floor=None if log else 0.0, log=log)
    caption = "Before clipping, mean since the line before" + ("; logarithmic." if log else ".")
    return canvas.panel("Gradient norm", "", caption, y, drafts)


def _clipped(canvas: Canvas) -> Panel | None:
    drafts = canvas.logged(lambda m: m.clipped, unit=0.01, smoothed=True)
    if not drafts:
        return None
    share = "The share of steps whose gradient was scaled down to the norm's bound."
    return canvas.panel("Clipped steps", "%", share, curves.Axis(-2.0, 102.0), drafts)


def _skipped(canvas: Canvas) -> Panel | None:
    drafts = canvas.logged(lambda m: m.skipped, stairs=True)
    if not any(_values(drafts)):
        return None
    caption = "Steps so far that were not taken because the loss or a gradient was not finite."
    return canvas.panel("Skipped steps", "", caption, curves.fit_axis(_values(drafts), floor=0.0, counts=True), drafts)


def _loss_scale(canvas: Canvas) -> Panel | None:
    drafts = canvas.logged(lambda m: m.loss_scale, stairs=True)
    if not drafts:
        return None
    y = curves.fit_axis(_values(drafts), log=True)
    return canvas.panel(
        "Loss scale", "", "The factor that keeps fp16 gradients from vanishing; logarithmic.", y, drafts
    )


def _held_out(canvas: Canvas) -> list[Draft]:
    """Dots, bars and links of every evaluation; splits besides the headline's are rings."""
    drafts = []
    for entry in canvas.entries:
        main = headline_evaluations(entry.record)
        splits = dict.fromkeys(e.split for e in [*main, *entry.record.evaluations] if e.score is not None)
        # Alone on the page, a run may use a second colour to tell held-out from training.
        tone = entry.index if len(canvas.entries) > 1 else 1
        for split in splits:
            at = [e for e in entry.record.evaluations if e.split == split and e.score is not None]
            ys = [e.score for e in at]
            kind = "dot" if at == main else "ring"
            drafts += [Draft(entry.index, tone, "link", at, ys)] if len(at) > 1 else []
            drafts += [
                Draft(entry.index, tone, "bar", at, [e.low for e in at], highs=[e.high for e in at]),
                Draft(entry.index, tone, kind, at, ys, _split_label(split)),
            ]
    return drafts


def _split_label(split: str) -> str:
    return {"held-out": "held-out", "train": "training text, scored"}.get(split, f"held-out ({split})")


def _scored_span(drafts: Iterable[Draft], from_share: float) -> list[float]:
    """What the evaluations span, leaving out those before `from_share` of each run if it has more than two."""
    span: list[float] = []
    for draft in drafts:
        late = [i for i, record in enumerate(draft.at) if record.step >= from_share * draft.at[-1].step]
        kept = late if len(draft.at) > 2 else range(len(draft.at))
        span += _present([draft.ys[i] for i in kept])
        span += _present([draft.highs[i] for i in kept]) if draft.highs else []
    return span


def _settled(drafts: Iterable[Draft]) -> list[float]:
    """What training curves span, leaving out their first steep fiftieth and single spikes."""
    return [v for draft in drafts for v in curves.middle(_present(draft.ys[len(draft.ys) // 50 :]))]


def _values(drafts: Iterable[Draft]) -> list[float]:
    return [value for draft in drafts for value in _present(draft.ys)]


def _present(ys: Series) -> list[float]:
    return [value for value in ys if value is not None]
