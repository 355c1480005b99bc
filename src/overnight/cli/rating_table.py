"""A recommender beside what it has to beat, as a table on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

MODEL = "this model"


def rating_table(record: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> Table:
    """RMSE, MAE, recall and NDCG: the model first, the others by their RMSE, and then those that only rank items.

    Args:
        record: what ``heldout_ratings`` gives at the end of a run.
        baselines: what ``rating_baselines`` gives.
    """
    errors = {MODEL: record, **{item["name"]: item for item in sorted(baselines, key=lambda item: item["rmse"])}}
    ranking: Mapping[str, Any] = record.get("ranking") or {"k": [], "of": []}
    lists = {item["name"]: item for item in ranking["of"]}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    columns = ["RMSE", "MAE", *(f"{name}\n@{k}" for k in ranking["k"] for name in ("recall", "NDCG"))]
    for column in columns:
        table.add_column(column, justify="right")
    for name in dict.fromkeys([*errors, *lists]):
        cells = [f"{errors[name][key]:.4f}" if name in errors else "" for key in ("rmse", "mae")]
        for at in range(len(ranking["k"])):
            cells += [f"{lists[name][key][at]:.4f}" if name in lists else "" for key in ("recall", "ndcg")]
        table.add_row(name, *cells, style="bold" if name == MODEL else "")
    return table


def left_out(record: Mapping[str, Any]) -> list[str]:
    """Sentences on what the table does not count."""
    said = []
    if record["cold"]:
        said.append(
            f"{record['cold']:,} more are of users or items that training does not have; with them, answered by the "
            f"mean, RMSE {record['rmse_with_cold']:.4f}."
        )
    ranking = record.get("ranking")
    if ranking:
        least = "" if ranking["relevant"] is None else f" of at least {ranking['relevant']:g}"
        said.append(
            f"Lists: held-out items{least} of {ranking['users']:,} users, what they rated in training left out."
        )
        said += [ranking["left_out"]] if "left_out" in ranking else []
    return said
