"""The command as a user sees it, and the parts of the examination that torch answers."""

import io
import re
import sys
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import orjson
import pytest
import torch
from rich.console import Console

import overnight
from overnight.cli.doctor import main
from overnight.doctor import Examination, examine
from overnight.doctor.accelerators import Accelerator, Torch
from overnight.doctor.choices import Choice, examine_fast_paths, examine_precision
from overnight.doctor.libraries import OPTIONAL, examine_libraries
from overnight.doctor.machine import Machine
from overnight.doctor.page import show
from overnight.doctor.rate import Rate, measure_rates
from overnight.errors import UserError
from overnight.train.precision import choose_precision


def test_json_is_one_object_with_every_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--json", "--no-measure", "--folder", str(tmp_path)]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["machine"]["disk_path"] == str(tmp_path.resolve())
    assert found["torch"]["version"] == torch.__version__
    assert found["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert found["rates"] == []
    assert [p["name"] for p in found["precision"] if p["chosen"]] in (["bf16"], ["fp16"], ["fp32"])
    assert all(p["reason"] for p in found["precision"] + found["fast_paths"])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing is not a folder\. Name one"):
        main(["--folder", str(tmp_path / "missing")])


def test_rates_are_measured_in_both_dtypes_and_agree_with_a_stopwatch() -> None:
    rates = measure_rates("cpu", seconds=0.2)
    assert [r.dtype for r in rates] == ["float32", "bfloat16"] * 2
    assert len({(r.rows, r.inner, r.columns) for r in rates}) == 2
    for rate in rates:
        seconds = 2 * rate.rows * rate.inner * rate.columns * rate.repeats / (rate.gflops * 1e9)
        assert seconds >= 0.05, "each of the four measurements takes at least its share of the time"


def declared_extras() -> dict[str, set[str]]:
    """Distribution → extras, from pyproject.toml."""
    found = (
        re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement) for requirement in requires("overnight") or []
    )
    extras: dict[str, set[str]] = {}
    for match in found:
        if match and match[2] != "dev":
            extras.setdefault(match[1].lower(), set()).add(match[2])
    return extras


def test_the_table_is_what_the_package_imports_and_pyproject_declares() -> None:
    declared = declared_extras()
    assert all(extra in declared[name] for name, extra, _ in OPTIONAL)
    modules = {"pillow": "PIL", "scikit-learn": "sklearn", "tensorboard": "torch.utils.tensorboard"}
    imported = set()
    for path in Path(overnight.__file__).parent.rglob("*.py"):
        source = path.read_text()
        for name in declared:
            module = re.escape(modules.get(name, name))
            by_name = "import_module(name)" in source and f'"{name}"' in source
            if by_name or re.search(rf"^\s*(?:import|from) {module}\b", source, re.MULTILINE):
                imported.add(name)
    assert {name for name, _, _ in OPTIONAL} == imported


def test_a_missing_library_has_no_version_and_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.doctor.libraries.OPTIONAL", (("no-such-library", "report", "nothing"),))
    (library,) = examine_libraries()
    assert (library.version, library.extra) == (None, "report")


@pytest.mark.parametrize("units", ["AMX", None])
def test_precision_is_the_trainers_choice_and_says_why_not_the_others(
    units: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overnight.train.precision.cpu_bf16_units", lambda: units)
    choices = {choice.name: choice for choice in examine_precision("cpu")}
    assert [name for name, choice in choices.items() if choice.chosen] == ["bf16" if units else "fp32"]
    assert choices["bf16" if units else "fp32"].reason == choose_precision(torch.device("cpu")).reason
    for name, choice in choices.items():
        assert choice.chosen or f"--precision {name}" in choice.reason


def test_exactly_one_path_of_the_recurrence_is_taken() -> None:
    assert sum(choice.chosen for choice in examine_fast_paths()) == 1


BIG = Examination(
    overnight="0.1.0",
    machine=Machine(
        "Linux 6.1.0-some-long-kernel-name, x86_64",
        "3.10.13",
        "A processor with a very long name " * 2,
        30,
        384,
        "a control group's quota of 29.5 cores",
        2_000_000_000_000,
        1_500_000_000,
        ("avx2",),
        "/a/folder" * 9,
        10**9,
    ),
    torch=Torch(
        "2.13.0+cu130",
        "13.0",
        30,
        tuple(Accelerator(f"cuda:{i}", "NVIDIA H200", 150_000_000_000, "9.0") for i in range(8)),
        ("gloo", "nccl"),
        "",
    ),
    device="cuda",
    rates=tuple(
        Rate("one step of 512 lanes", 512, 4096, 16384, dtype, rate, 9)
        for dtype, rate in (("float32", 51_234.0), ("bfloat16", 712.0))
    ),
    precision=(Choice("bf16", True, "this GPU multiplies bfloat16 in hardware [sic]."),),
    fast_paths=(Choice("whole-sequence function", True, "one function."),),
    libraries=examine_libraries(),
)


def test_the_page_keeps_to_80_columns_and_loses_nothing() -> None:
    console = Console(file=io.StringIO(), width=80)
    show(BIG, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for part in (
        "30 usable of 384",
        "2000 GB, 1.5 GB available",
        "cuda:7",
        "compute capability 9.0",
        "51.2 TFLOP/s",
        "712 GFLOP/s",
        "[sic]",
    ):
        assert part in flat, part
    assert "…" not in text


def test_an_accelerator_that_training_does_not_use_is_explained() -> None:
    mac = replace(BIG, torch=replace(BIG.torch, accelerators=(Accelerator("mps:0", "mps", None, ""),)), device="cpu")
    for found, expected in ((mac, "cpu; mps is not used: training runs on CUDA and the CPU only."), (BIG, "cuda")):
        console = Console(file=io.StringIO(), width=200)
        show(found, console)
        assert isinstance(console.file, io.StringIO)
        (line,) = (line for line in console.file.getvalue().splitlines() if line.startswith("trains on"))
        assert line.split(None, 2)[2].strip() == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine trains on its GPU")
def test_examine_on_this_machine() -> None:
    found = examine(Path(), measure=False)
    assert found.device == "cpu"
    assert found.torch.accelerators == () or sys.platform == "darwin"
