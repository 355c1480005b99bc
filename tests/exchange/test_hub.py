"""The layout of the Hugging Face hub: weights, configuration, card."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exchange.making import model_of, snapshot, write_run
from safetensors.torch import load_file, save_file

import overnight
from overnight.errors import UserError
from overnight.exchange import export_model, import_model

SETTINGS = {"hidden_size": 10, "embedding_size": 6}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export_model(write_run(tmp_path / "run", **SETTINGS), "safetensors", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.mark.parametrize("settings", [{}, {"layers": 3}, {"weight_norm": False}], ids=str)
def test_round_trip_is_exact(settings: dict[str, Any], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SETTINGS, **settings)
    made = export_model(run, "safetensors", tmp_path / "hub")
    assert (made.step, dict(made.differences)) == (7, {"model.safetensors": 0.0})
    assert snapshot(tmp_path / "hub") == {"model.safetensors", "config.json", "README.md"}
    assert made.bytes == sum(file.stat().st_size for file in (tmp_path / "hub").iterdir())
    import_model(tmp_path / "hub", tmp_path / "again")
    again, before = overnight.load(tmp_path / "again"), overnight.load(run)
    assert again.digest == before.digest
    assert again.step == before.step == 7
    assert again.run["recipe"] == "byte-lm"
    for name, tensor in model_of(**SETTINGS, **settings).state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_safetensors_can_be_read_without_overnight(exported: Path) -> None:
    tensors = load_file(exported / "model.safetensors")
    assert tensors["embedding.weight"].shape == (256, 6)
    config = json.loads((exported / "config.json").read_text())
    assert (config["hidden_size"], config["embedding_size"], config["layers"]) == (10, 6, 1)
    assert (config["step"], config["tokens"], config["vocab_size"]) == (7, 4096 * 7, 256)


def test_the_card_quotes_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SETTINGS)
    lines = [
        {"step": 5, "split": "valid", "bits_per_byte": 3.5, "low": 3.4, "high": 3.6, "bytes": 1000},
        {"step": 7, "split": "valid", "bits_per_byte": 2.25, "low": 2.125, "high": 2.375, "bytes": 123456},
        {"step": 9, "split": "valid", "bits_per_byte": 9.5, "low": None, "high": None, "bytes": 1000},
    ]
    (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "spl')
    others = [{"name": "xz -9e | x", "bits_per_byte": 2.5}, {"name": "gzip", "bits_per_byte": None}]
    (run / "summary.json").write_text(json.dumps({"state": "finished", "final": None, "baselines": others}))
    export_model(run, "safetensors", tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: overnight\n")
    assert "| held-out bits per byte | 2.2500 (95 % interval 2.1250 to 2.3750) on valid, 123,456 bytes |" in card
    assert "| xz -9e   x, same bytes | 2.5000 bits per byte |" in card
    assert "| trained on | 28,672 bytes, 7 updates |" in card
    assert f"`{overnight.load(run).digest}`" in card
    assert "3.5" not in card
    assert "9.5" not in card


def test_a_card_of_a_run_that_says_nothing(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "| units | 10 in 1 layer |" in card
    assert "held-out" not in card


def refused(source: Path) -> str:
    out = source.parent / "imported"
    before = snapshot(source.parent)
    with pytest.raises(UserError) as caught:
        import_model(source, out)
    assert snapshot(source.parent) == before
    return str(caught.value)


def change(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("value", [0, -3, "10", None, 2.5, True])
@pytest.mark.parametrize("name", ["hidden_size", "embedding_size", "layers"])
def test_sizes_that_are_none(name: str, value: Any, exported: Path) -> None:
    assert f"config.json has {name}={value!r}." in refused(change(exported, **{name: value}))


def test_sizes_that_are_not_the_weights(exported: Path) -> None:
    said = refused(change(exported, hidden_size=11))
    assert "with the sizes of config.json it must be" in said
    assert "has no layers.1." in refused(change(exported, hidden_size=10, layers=2))
    assert "config.json has layers=1,000,000." in refused(change(exported, layers=1_000_000))
    assert "has no layers.0.gates.hidden_to_m.weight" in refused(change(exported, layers=1, weight_norm=False))


def test_configurations_of_something_else(exported: Path) -> None:
    for content, named in (
        ('{"model_type": "gpt2"}', "describes gpt2, not overnight-model/1"),
        ('{"format": "overnight-model/2"}', "describes overnight-model/2"),
        ("[]", "describes another kind of model"),
        ("{", "cannot be read"),
    ):
        (exported / "config.json").write_text(content)
        assert named in refused(exported)


def test_weights_that_are_damaged_or_others(exported: Path) -> None:
    file = exported / "model.safetensors"
    whole = file.read_bytes()
    tensors = load_file(file)
    file.write_bytes(whole[:-1])
    assert f"{file} cannot be read" in refused(exported)
    file.unlink()
    assert f"{file} cannot be read" in refused(exported)
    save_file(tensors | {"output.bias": tensors["output.bias"] + 1}, file)
    assert "is not the file that config.json was written with" in refused(exported)
    save_file(tensors | {"output.bias": tensors["output.bias"] * torch.nan}, file)
    assert "output.bias of" in (said := refused(exported))
    assert "256 of 256 numbers that are NaN" in said
    save_file(tensors | {"extra": torch.ones(1)}, file)
    assert "holds the unknown extra" in refused(exported)


def test_a_configuration_without_the_origin(exported: Path) -> None:
    change(exported, step="many", tokens=None, recipe=3, digest=None)
    import_model(exported, exported.parent / "imported")
    loaded = overnight.load(exported.parent / "imported")
    assert (loaded.step, loaded.run["recipe"]) == (0, "import")
