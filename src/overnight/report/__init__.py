"""Reports: one self-contained HTML page from one or several run folders (docs/run-folder.md), and nothing else.

`read_run` gives a run folder as typed records; `write_report` writes the page. Neither needs torch.
"""

from overnight.report.page import write_report
from overnight.report.read import RunRecord, read_run

__all__ = ["RunRecord", "read_run", "write_report"]
