"""`overnight doctor --optimizer` as a user sees it: classes of anyone, mistakes, table, JSON, exit codes."""

import io
import sys
from pathlib import Path

import orjson
import pytest
import torch
from contracts.toys import ToyLAMB
from rich.console import Console

from overnight.cli import main as program
from overnight.cli.doctor import main
from overnight.doctor.optimizer import Check, Conformance, Finding, Subject, conformance, find_subject
from overnight.doctor.optimizer.length import judge
from overnight.doctor.optimizer.outcome import Outcome, within
from overnight.doctor.optimizer.page import show, summary
from overnight.doctor.optimizer.rate_drop import responses
from overnight.errors import UserError

MINE = '''
import torch

class Lamb(torch.optim.Optimizer):
    """Adam's direction is missing, but the length is right."""

    def __init__(self, params, lr=1.0, wd=0.0):
        super().__init__(params, dict(lr=lr, wd=wd))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                u = p.grad.sign() + group["wd"] * p
                p.sub_(group["lr"] * p.norm() / u.norm() * u)

class Other(Lamb):
    pass

class NotOne:
    pass
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_optimizers_of_a_test.py").write_text(MINE)
    (tmp_path / "my_broken_module_of_a_test.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["LAMB"], "'LAMB' does not name a class. Write --optimizer module:Class."),
        (["no_such_module_of_a_test:LAMB"], "no_such_module_of_a_test cannot be imported: ModuleNotFoundError: "),
        (["my_broken_module_of_a_test:LAMB"], "cannot be imported: ZeroDivisionError: division by zero. "),
        (["my_optimizers_of_a_test:Lomb"], "my_optimizers_of_a_test has no Lomb. "),
        (["my_optimizers_of_a_test:NotOne"], "my_optimizers_of_a_test:NotOne is no torch.optim.Optimizer. "),
        (["my_optimizers_of_a_test:Other"], "The name Other does not tell whether this is a LAMB or a LARS. Say it "),
        (["overnight.optim:LAMB", "--set", "beta=1"], "LAMB has no argument 'beta'. It takes: lr, betas, eps, "),
        (["overnight.optim:LAMB", "--set", "betas"], "'betas' is no setting. Write --set name=value."),
        (["overnight.optim:LAMB", "--set", "lr=1"], "lr is what the checks vary. Leave out --set lr=1."),
        (["overnight.optim:LAMB", "--set", "weight_decay=1"], "weight_decay is what the checks vary. Leave out "),
        (["overnight.optim:LAMB", "--set", "eps=-1"], "overnight.optim:LAMB cannot be built: ValueError: eps=-1 "),
        (["torch.optim:LBFGS", "--family", "lars", "--set", "max_iter=no"], "cannot be built: "),
    ],
)
def test_mistakes_are_one_sentence_and_a_remedy(
    arguments: list[str], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["doctor", "--optimizer", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert ".." not in error


def test_options_of_an_optimizer_need_one() -> None:
    with pytest.raises(UserError, match="--set and --family are for an optimizer"):
        main(["--set", "eps=0"])


def test_a_class_of_the_current_folder_is_examined_and_its_exit_code_is_1(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--optimizer", "my_optimizers_of_a_test:Lamb", "--json"]) == 1
    found = orjson.loads(capsys.readouterr().out)
    assert (found["optimizer"], found["family"]) == ("my_optimizers_of_a_test:Lamb", "lamb")
    status = {finding["name"]: finding["status"] for finding in found["findings"]}
    assert status["length"] == status["no decay"] == "pass"
    assert status["blocks"] == status["modes"] == "not applicable"
    assert status["zeros"] == "fail"
    assert all(finding["measured"] and finding["rule"] for finding in found["findings"])


def test_a_whole_one_gives_exit_code_0_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--optimizer", "overnight.optim:LARS", "--set", "momentum=0.5", "--set", "nesterov=true"]) == 0
    text = capsys.readouterr().out
    assert "overnight.optim:LARS, examined as LARS" in text
    assert "given: momentum=0.5, nesterov=True" in text
    assert "set by the checks: trust_coefficient=0.001" in text
    assert "FAIL" not in text
    assert "none failed" in text


def test_the_family_can_be_told_and_arguments_go_by_other_names(here: Path) -> None:
    subject = find_subject("my_optimizers_of_a_test:Other", (), "lamb")
    assert (subject.family, subject.keyword("weight_decay"), subject.keyword("momentum")) == ("lamb", "wd", None)
    optimizer = subject.build([torch.ones(1)], lr=0.1, weight_decay=0.3)
    assert optimizer.param_groups[0]["wd"] == 0.3


def test_settings_are_python_values_or_words() -> None:
    given = find_subject(
        "overnight.optim:LAMB", ["betas=(0.5, 0.6)", "variant=lans", "adapt=True", "foreach=none"]
    ).given
    assert given == {"betas": (0.5, 0.6), "variant": "lans", "adapt": True, "foreach": None}


def test_an_error_inside_the_optimizer_fails_the_check_that_met_it() -> None:
    found = conformance(Subject("mine", ToyLAMB, "lamb", {"bug": "raises"}))
    measured = {finding.name: finding.measured for finding in found.findings}
    del measured["host sync"], measured["modes"]
    assert set(measured.values()) == {"raises IndexError: a message"}
    assert set(found.broken) >= set(measured)


def test_lengths_that_are_not_numbers_fail() -> None:
    assert judge({1.0: [1.0, float("nan")]}).status == "fail"
    assert judge({1.0: [1.0, float("inf")]}).status == "fail"
    assert within(float("nan"), "error").status == "fail"


def test_responses_to_a_drop_are_sums_of_orthogonal_terms() -> None:
    inside, outside = responses("inside", 0.9)[0], responses("torch", 0.9)[0]
    assert inside == pytest.approx((1 + 81 * (1 - 0.81**6) / 0.19) ** 0.5)
    assert outside == pytest.approx(((1 - 0.81**7) / 0.19) ** 0.5)
    assert responses("scaled", 0.9) == (outside, inside)
    assert responses("torch", 0.9, nesterov=True)[0] == pytest.approx(
        (1.9**2 + 0.81 * 0.81 * (1 - 0.81**6) / 0.19) ** 0.5
    )


def test_the_page_keeps_to_80_columns_and_loses_nothing() -> None:
    rows = [
        Finding("length", "‖Δw‖ = lr·‖w‖ " * 9, "fail", "off at ‖w‖ = 400 by ×0.25, [sic]", 0.75),
        Finding("10⁹ elements", "a rule", "not applicable", "because", None),
        Finding("rate drop", "a rule", "information", "so it is", None),
        Finding("zeros", "a rule", "pass", "finite", 0.0),
    ]
    found = Conformance("a:B", "lars", {"x": [1]}, {"momentum": 0.9}, "2.13.0", tuple(rows))
    console = Console(file=io.StringIO(), width=80)
    show(found, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("by ×0.25, [sic]", "FAIL", "n/a", "info", "given: x=[1]", "set by the checks: momentum=0.9"):
        assert part in " ".join(text.split())
    assert summary(found) == "1 passed, 1 failed: length."


def test_a_check_of_ones_own() -> None:
    never = Check("never", {"lamb": "no", "lars": "no"}, lambda subject: Outcome("fail", subject.name))
    assert conformance(Subject("mine", ToyLAMB, "lamb", {}), [never]).broken == ("never",)
