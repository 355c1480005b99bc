"""The model card: what a model is and what its run reached, in Markdown."""

import json
from pathlib import Path
from typing import Any

import overnight
from overnight.evaluate.load import ByteModel

HEAD = """---
library_name: overnight
pipeline_tag: text-generation
tags:
- byte-level
- multiplicative-lstm
- language-model
---
"""
USE = """
## Use

With overnight installed and this folder downloaded:

```bash
overnight import FOLDER --out runs/model
overnight generate runs/model --prompt "The best part"
```

```python
import overnight

model = overnight.load("runs/model")
bits = model.score(["some text"])          # information content, in bits
features = model.features(["some text"])   # final cell state, float32 [texts, units]
```
"""


def card(loaded: ByteModel, run: Path, tokens: int | None) -> str:
    """The card of a run's model.

    Args:
        loaded: the model of the checkpoint that is exported.
        run: the run folder; its evaluations and summary are quoted where there are any.
        tokens: bytes that the checkpoint had been trained on, if known.
    """
    model = loaded.model
    gates: Any = model.layers[0].gates
    parameters = sum(parameter.numel() for parameter in model.parameters())
    norm = "weight normalisation on the cell's matrices" if gates.weight_norm else "no weight normalisation"
    rows = [
        ("units", f"{model.hidden_size:,} in {len(model.layers)} layer{'s' * (len(model.layers) > 1)}"),
        ("byte embedding", f"{model.embedding.embedding_dim} wide"),
        ("parameters", f"{parameters:,}, {norm}"),
        ("digest of the weights", f"`{loaded.digest}`"),
        *_figures(loaded, run, tokens),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"{HEAD}\n# {_plain(run.resolve().name)}\n\nA byte-level language model: a multiplicative LSTM "
        "(Krause et al. 2016, arXiv 1609.07959; Radford et al. 2017, arXiv 1704.01444) that reads and predicts bytes, "
        f"made with overnight {overnight.__version__}.\n\n|  |  |\n|---|---|\n{table}\n{USE}"
    )


def _figures(loaded: ByteModel, run: Path, tokens: int | None) -> list[tuple[str, str]]:
    rows = []
    if isinstance(recipe := loaded.run.get("recipe"), str):
        rows.append(("recipe", f"`{_plain(recipe)}`"))
    if tokens:
        rows.append(("trained on", f"{tokens:,} bytes, {loaded.step:,} updates"))
    summary = _json(run / "summary.json")
    evaluated = [_json_of(line) for line in _lines(run / "eval.jsonl")]
    records: list[Any] = [*evaluated, summary.get("final")]
    of_step: list[dict[str, Any]] = [item for item in records if _scored(item) and item["step"] == loaded.step]
    if of_step:
        rows.append(("held-out bits per byte", _bits(of_step[-1])))
        others = summary.get("baselines")
        for other in others if isinstance(others, list) else []:
            if isinstance(other, dict) and isinstance(other.get("bits_per_byte"), float):
                rows.append((f"{_plain(other.get('name'))}, same bytes", f"{other['bits_per_byte']:.4f} bits per byte"))
    corpus = loaded.run.get("derived", {}).get("corpus_digest")
    return [*rows, ("digest of the corpus", f"`{_plain(corpus)}`")] if corpus else rows


def _bits(item: dict[str, Any]) -> str:
    known = all(isinstance(item.get(name), float) for name in ("low", "high"))
    interval = f" (95 % interval {item['low']:.4f} to {item['high']:.4f})" if known else ""
    count = f", {item['bytes']:,} bytes" if isinstance(item.get("bytes"), int) else ""
    return f"{item['bits_per_byte']:.4f}{interval} on {_plain(item.get('split'))}{count}"


def _scored(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("bits_per_byte"), float) and "step" in item


def _plain(text: object) -> str:
    """Without what would end a cell of the table or begin markup."""
    return "".join(" " if character in "|`<>\r\n[]" else character for character in str(text))


def _json(file: Path) -> dict[str, Any]:
    return _json_of(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else {}


def _json_of(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:  # the last line of a run that is still going may be cut short
        return {}
    return value if isinstance(value, dict) else {}


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
