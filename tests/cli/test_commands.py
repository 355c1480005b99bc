"""What the command line says when all is well."""

import pytest

import overnight
from overnight.cli import COMMANDS, main
from overnight.errors import UserError
from overnight.recipes import RECIPES
from overnight.recipes.bert_presets import PRESETS as BERT
from overnight.recipes.byte_presets import PRESETS
from overnight.recipes.gnmt_presets import PRESETS as GNMT
from overnight.recipes.image_presets import ALEXNETS, RESNETS
from overnight.recipes.word_presets import PRESETS as WORDS
from overnight.train.batches import plan_batches


def test_list_names_every_recipe_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*RECIPES, *PRESETS, *WORDS, *GNMT, *BERT, *RESNETS, *ALEXNETS):
        assert any(line.split()[:1] == [name] and len(line.split()) > 4 for line in lines), name
    paper = next(line for line in lines if line.split()[:1] == ["4096"])
    assert "4096 units, batch 128 × 256 bytes, rate 0.0005, 1 epoch" in paper
    large = next(line for line in lines if line.split()[:1] == ["large"])
    assert "24 layers of 1024 units, 16 heads, lamb, batch 512, rate 0.00063, 512,000,000 sequences" in large


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and about in said for name, about in COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"overnight {overnight.__version__}\n"


def test_train_without_a_recipe_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    assert f"Recipes: {', '.join(RECIPES)} (overnight list says more)." in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command, "--help"])
    except SystemExit as leaving:
        code = leaving.code  # type: ignore[assignment]
    said = capsys.readouterr()
    assert not code
    assert "usage: overnight " + command in said.out
    assert said.err == ""


def test_batch_arithmetic() -> None:
    assert str(plan_batches(64, 2, 8)) == "64 = 2 ranks × 4 accumulation × 8 micro-batch"
    assert str(plan_batches(32768, 1, None)) == "32,768 = 1 rank × 1 accumulation × 32,768 micro-batch"
    assert str(plan_batches(8, 1, 100)) == "8 = 1 rank × 1 accumulation × 8 micro-batch"
    plan = plan_batches(24, 3, 4)
    assert [plan.lanes(rank) for rank in range(3)] == [[(0, 4), (4, 4)], [(8, 4), (12, 4)], [(16, 4), (20, 4)]]


@pytest.mark.parametrize(
    ("batch", "ranks", "micro", "problem", "remedy"),
    [
        (10, 4, None, "A batch of 10 cannot be shared by 4 ranks.", "Take --batch-size 8, or another number of ranks."),
        (3, 4, None, "A batch of 3 cannot be shared by 4 ranks.", "Take --batch-size 4, or another number of ranks."),
        (30, 1, 4, "A batch of 30 is not divisible by 1 rank × micro-batch 4.", "Take --micro-batch-size 3."),
        (28, 2, 4, "A batch of 28 is not divisible by 2 ranks × micro-batch 4.", "Take --micro-batch-size 2."),
        (7, 1, 5, "A batch of 7 is not divisible by 1 rank × micro-batch 5.", "Take --micro-batch-size 1."),
    ],
)
def test_batches_that_cannot_be_cut(batch: int, ranks: int, micro: int | None, problem: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_batches(batch, ranks, micro)
    assert (caught.value.problem, caught.value.remedy) == (problem, remedy)
