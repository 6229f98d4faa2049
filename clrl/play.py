"""Videos of what an agent can do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clrl.envs.rendering import Camera
from clrl.run import Run
from clrl.sealed import TEMPORARY


def play(path: Path, skill: str | None = None, episodes: int = 3) -> list[Path]:
    """Film the newest agent of a run, `RUN/videos/SKILL.mp4`.

    Args:
        path: The run's directory.
        skill: Only this one; all that were learned by default.
        episodes: Per skill, one after another, >= 1.

    Raises:
        ValueError: no such run, skill or number.
        RenderError: there is nothing to draw with.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be >= 1, got {episodes}")
    run = Run.open(path)
    agent = run.agent()
    names = [skill] if skill is not None else agent.skills
    for name in names:
        agent.skill_index(name)  # refuses before anything is filmed
        if not hasattr(run.curriculum[name], "model"):
            raise ValueError(f"skill {name!r} is a Gymnasium environment; film it with its own")
    targets = [run.path / "videos" / f"{name.replace('/', '-')}.mp4" for name in names]
    for name, target in zip(names, targets, strict=True):
        film(run, agent, [name], episodes, target)
    return targets


def film(run: Run, agent: Any, names: Sequence[str], episodes: int, target: Path) -> None:
    """Film skills one after another into one file, at the speed of the first.

    Raises:
        RenderError: there is nothing to draw with.
    """
    import imageio.v2 as imageio

    first: Any = run.curriculum[names[0]]
    camera = Camera(first.model)
    camera.close()  # refuses before a file is made
    target.parent.mkdir(exist_ok=True)
    part = target.with_name(f"{TEMPORARY}{target.name}")
    writer: Any = imageio.get_writer(part, fps=round(1.0 / first.dt), macro_block_size=1)
    with writer as video:
        for name in names:
            _append(video, run, agent, name, episodes)
    part.replace(target)


def _append(video: Any, run: Run, agent: Any, name: str, episodes: int) -> None:
    skill: Any = run.curriculum[name]
    env: Any = run.curriculum.vec_env(name, 1, seed=0, threads=1)
    camera = Camera(skill.model)
    policy = agent.for_skill(name)
    try:
        observation = env.reset()
        for _ in range(episodes * skill.horizon):
            video.append_data(camera.shoot(env.episodes.world))
            action, _ = policy.predict(observation, deterministic=True)
            observation = env.step(action)[0]
    finally:
        camera.close()
