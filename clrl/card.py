"""The model card: what a person and Hugging Face read of a bundle."""

import json
from collections.abc import Mapping
from typing import Any

Contract = Mapping[str, Any]


def card(contract: Contract, *, bundle: str = ".", replay: str | None = None) -> str:
    """A README with the metadata of a model card.

    Args:
        contract: Content of `policy.json`.
        bundle: Where the bundle lies, seen from the card.
        replay: Name of a video beside the card, or None.
    """
    title = f"{contract['curriculum']}: {' + '.join([contract['agent'], *contract['protections']])}"
    sections = [
        _metadata(contract),
        f"# {title}, seed {contract['seed']}",
        f"One policy for the skills below, learned {_order(contract)} with clrl and exported for a "
        "robot: ONNX with the normaliser, the choice of skill, scaling and limits inside.",
        *_variants(contract["skills"]),
        *([f"![replay]({replay})"] if replay else []),
        "## Skills",
        _skills(contract),
        _protocol(contract["protocol"]),
        *_gate(contract["gate"]),
        "## Use",
        "    pip install 'clrl[deploy]'\n"
        f"    clrl verify {bundle}\n\n"
        "    import clrl.deploy\n"
        f'    policy = clrl.deploy.load("{bundle}")\n'
        f'    action = policy(observation, skill="{contract["skills"][0]["name"]}")',
        "## Observation and action",
        *(_layout(skill) for skill in _distinct(contract["skills"])),
        "Measured in simulation. Nothing here was measured on a robot.",
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(contract: Contract) -> str:
    """YAML front matter whose values are JSON, which YAML takes as it is."""
    results = [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": skill["id"], "type": skill["id"]},
            "metrics": [
                {
                    "type": "success_rate",
                    "name": f"success rate, {contract['protocol']['episodes']} episodes",
                    "value": skill["measured"]["success"],
                    "verified": False,
                },
                {"type": "mean_reward", "value": skill["measured"]["return"], "verified": False},
            ],
        }
        for skill in contract["skills"]
    ]
    name = f"clrl-{contract['curriculum']}-{contract['agent']}"
    values = {
        "library_name": "clrl",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["robotics", "continual-learning", "reinforcement-learning", "onnx", "mujoco"],
        "model-index": [{"name": name, "results": results}],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _order(contract: Contract) -> str:
    return "all at once" if contract["protections"] == ["joint"] else "one after another"


def _skills(contract: Contract) -> str:
    lines = ["| skill | index | success | 95 % interval | when learned | Hz |", "|" + "---|" * 6]
    at_once = _order(contract) == "all at once"
    for skill in contract["skills"]:
        m = skill["measured"]
        hz = "unknown" if skill["control_hz"] is None else f"{skill['control_hz']:g}"
        interval = f"{m['success_low']:.0%} to {m['success_high']:.0%}"
        lines.append(
            f"| {skill['name']} | {skill['index']} | {m['success']:.0%} | {interval} "
            f"| {'-' if at_once else format(m['success_when_learned'], '.0%')} | {hz} |"
        )
    return "\n".join(lines)


def _variants(skills: list[Any]) -> list[str]:
    own = [skill["name"] for skill in skills if skill["bytes_of_variant"]]
    if not own:
        return []
    return [
        f"Variants with layers of their own, each learned apart after the others: {', '.join(own)}."
    ]


def _protocol(protocol: Contract) -> str:
    return (
        f"{protocol['episodes']} episodes a skill, horizon {protocol['horizon']}, success "
        f"{protocol['success']}, deterministic actions, seed {protocol['seed']}."
    )


def _gate(gate: Contract) -> list[str]:
    if not gate["forgotten"]:
        return []
    return [
        f"**Exported with --allow-forgetting**: {', '.join(gate['forgotten'])} kept less than "
        f"{gate['min_retention']:.0%} of the success it was learned with."
    ]


def _distinct(skills: list[Any]) -> list[Any]:
    """Skills with different layouts; one stands for all that share its own."""
    seen: dict[str, Any] = {}
    for skill in skills:
        seen.setdefault(json.dumps([skill["observation"], skill["action"]]), skill)
    return list(seen.values())


def _layout(skill: Contract) -> str:
    lines = [f"Axes: {skill['axes']}.", "", "| name | elements | unit | scale | meaning |"]
    lines.append("|" + "---|" * 5)
    for part in (*skill["observation"], *skill["action"]):
        elements = ", ".join(part["elements"])
        lines.append(
            f"| {part['name']} | {elements} | {part['unit'] or 'unknown'} | {part['scale']:g} "
            f"| {part['text']} |"
        )
    return "\n".join(lines)
