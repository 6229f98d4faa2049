"""A folder as Hugging Face shows it: a card, a video, and the bundle beside them."""

import os
from collections.abc import Mapping
from pathlib import Path

from clrl import bundle, export, sealed
from clrl.card import card
from clrl.envs.rendering import RenderError
from clrl.play import film
from clrl.run import Run

_BUNDLE, _REPLAY = "bundle", "replay.mp4"


def write_hub_folder(path: Path, run: Run, files: Mapping[str, bytes]) -> str | None:
    """Write the folder, whole or not at all; uploading it is up to `hf upload`.

    Args:
        path: The folder, which must not exist.
        run: What was trained, to film it.
        files: The bundle's, from `export`.

    Returns:
        Why there is no video, or None where there is one.

    Raises:
        FileExistsError: there is something at that path.
        OSError: it cannot be written.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists; choose another --hub-dir or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with sealed.staged(path) as folder:
        export.write(folder / _BUNDLE, files)
        missing = _film(run, folder / _REPLAY)
        facts = bundle.parse(files[bundle.CONTRACT], bundle.CONTRACT)
        text = card(facts, bundle=_BUNDLE, replay=None if missing else _REPLAY)
        (folder / bundle.CARD).write_text(text)
    return missing


def _film(run: Run, target: Path) -> str | None:
    """One episode of every skill that can be drawn; why there is none otherwise."""
    agent = run.agent(run.finals()[-1])
    drawn = [name for name in agent.skills if hasattr(run.curriculum[name], "model")]
    if len(drawn) < len(agent.skills):
        return "no replay.mp4: a Gymnasium environment is filmed with its own"
    try:
        film(run, agent, drawn, 1, target)
    except RenderError as error:
        target.unlink(missing_ok=True)
        return f"no replay.mp4: {error}"
    return None
