"""Pictures of what a run's agent does on each skill, before, when learned and at the end."""

from io import BytesIO
from pathlib import Path
from typing import Any

from clrl.envs.rendering import Camera, RenderError
from clrl.eval.page import Film
from clrl.run import Run

_PICTURES = 3  # of an episode: its start, its middle, its end
_SIZE = (240, 180)  # pixels


def film(path: Path, title: str) -> Film:
    """Pictures of every skill of a finished run.

    Args:
        path: The run's directory.
        title: What to call it.

    Returns:
        The pictures; none, and the reason, where nothing can be drawn.
    """
    run = Run.open(path)
    names = [name for name in run.curriculum.names if hasattr(run.curriculum[name], "model")]
    finals = run.finals()
    if not names or len(finals) != len(run.curriculum) + 1:
        why = "its skills are Gymnasium environments" if not names else "checkpoints are missing"
        return Film(title, note=f"No pictures: {why}.")
    agents = [run.agent(final) for final in finals]
    pictures = {}
    try:
        for name in names:
            learned = run.curriculum.names.index(name) + 1
            moments = {"before training": 0, "when learned": learned, "at the end": -1}
            pictures[name] = {m: _shoot(run, agents[at], name) for m, at in moments.items()}
    except RenderError as error:
        return Film(title, note=f"No pictures: {error}.")
    return Film(title, pictures)


def _shoot(run: Run, agent: Any, name: str) -> list[bytes]:
    """The first episode of a skill, as `_PICTURES` JPEG files."""
    skill: Any = run.curriculum[name]
    env: Any = run.curriculum.vec_env(name, 1, seed=0, threads=1)
    policy = agent.for_skill(name) if name in agent.skills else agent.newest()
    last = skill.horizon - 1  # the step after it starts another episode
    wanted = {round(i * last / (_PICTURES - 1)) for i in range(_PICTURES)}
    camera = Camera(skill.model, *_SIZE)
    pictures = []
    try:
        observation = env.reset()
        for step in range(skill.horizon):
            if step in wanted:
                pictures.append(_jpeg(camera.shoot(env.episodes.world)))
            if step < last:
                observation = env.step(policy.predict(observation, deterministic=True)[0])[0]
    finally:
        camera.close()
    return pictures


def _jpeg(picture: Any) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=80)
    return file.getvalue()
