"""The findings laid out for a terminal of 80 columns or more."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from overnight.doctor.optimizer import Conformance, Finding

STYLES = {"pass": "green", "fail": "bold red", "not applicable": "dim", "information": "cyan"}


def show(found: Conformance, console: Console) -> None:
    """What was examined, a row for each check, and the sum."""
    console.print(f"{found.optimizer}, examined as {found.family.upper()} under torch {found.torch}", style="bold")
    for title, settings in (("given", found.given), ("set by the checks", found.chosen)):
        if settings:
            console.print(escape(f"{title}: " + ", ".join(f"{k}={v!r}" for k, v in settings.items())), highlight=False)
    console.print("each check sets lr and the weight decay; all else is as the class has it\n", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found.findings:
        style = STYLES[finding.status]
        table.add_row(finding.name, f"[{style}]{_word(finding)}[/]", escape(finding.rule))
        table.add_row("", "", f"[{style}]{escape(finding.measured)}[/]")
    console.print(table)
    console.print("\n" + summary(found), style="bold", highlight=False)


def summary(found: Conformance) -> str:
    """One sentence."""
    passed = sum(finding.status == "pass" for finding in found.findings)
    if not found.broken:
        return f"{passed} passed, none failed."
    return f"{passed} passed, {len(found.broken)} failed: {', '.join(found.broken)}."


def _word(finding: Finding) -> str:
    return {"fail": "FAIL", "not applicable": "n/a", "information": "info"}.get(finding.status, finding.status)
