"""What already stands in the folder, a corpus or an interrupted run, against what is asked for now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from overnight.data.ingest.folder import CorpusFolder
from overnight.errors import UserError


def already_there(
    finished: dict[str, Any],
    folder: CorpusFolder,
    described: dict[str, Any],
    part: tuple[int, int] | None,
    piped: bool,
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """The manifest of the corpus that is there, where it is the one that was asked for.

    Args:
        finished: that manifest.
        folder: where it is.
        described: the settings asked for.
        part: the part asked for.
        piped: standard input is a source, and nobody can tell what it held.
        notify: told that there is nothing to do.

    Raises:
        UserError: it is another one.
    """
    differences = _differences(described, finished["settings"])
    if finished["part"] != (list(part) if part else None):
        differences.append("part")
    if piped or differences:
        why = f" made otherwise ({', '.join(differences)})" if differences else ""
        raise UserError(
            f"{folder.path} already holds a corpus{why}.", "Add --force to replace it, or choose another --out."
        )
    notify(f"{folder.path} is already complete; nothing to do.")
    return finished


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = [name for name in wanted if wanted[name] != found.get(name)]
    return ["sources" if name == "sources_sha256" else name for name in names]


def resume_state(
    folder: CorpusFolder, plan: dict[str, Any], piped: bool, notify: Callable[[str], None]
) -> dict[str, Any] | None:
    """How far an interrupted run came, where this one can go on from there; None begins anew.

    Args:
        folder: where it left off.
        plan: what is going to be done now.
        piped: standard input is a source, which cannot be read from the middle.
        notify: told where it goes on.

    Raises:
        UserError: its settings or sources were others.
    """
    before = folder.plan()
    if before is None:
        return None
    if piped:
        notify(f"{folder.path} holds an interrupted run; standard input is read anew from its beginning.")
        return None
    differences = _differences(plan["settings"], before.get("settings", {}))
    differences += [name for name in ("part", "overnight") if plan[name] != before.get(name)]
    if differences and differences != ["sources"]:
        raise UserError(
            f"{folder.path} holds an interrupted run with other settings ({', '.join(differences)}).",
            "Start it with the settings it had, or add --force to prepare anew.",
        )
    if plan["sources"] != before.get("sources") or plan["pieces"] != before.get("pieces"):
        changed = next((s[0] for s in plan["sources"] if s not in before.get("sources", [])), "their list")
        raise UserError(
            f"The sources changed since the run in {folder.path} was interrupted ({changed}).",
            "Add --force to prepare anew.",
        )
    state = folder.progress()
    done = state["pieces_done"] if state else 0
    notify(f"{folder.path}: going on with an interrupted run, {done} of {plan['pieces']} pieces are done.")
    return state
