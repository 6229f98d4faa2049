"""PackNet: earlier skills act as they did, to the bit, wherever their policy is read."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from clrl import onnx_graph
from clrl.agents import EWC, ContinualPPO, ContinualSAC, PackNet, Protection, make_agent
from clrl.agents.masks import Masks
from clrl.envs import make_curriculum
from clrl.export import export
from clrl.preparation import prepare
from clrl.voices import Voice
from tests.agents import conftest
from tests.agents.toy import PointVecEnv

ROWS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
STEPS = 160


def learn(agent: Any, name: str, sign: float = 1.0) -> None:
    agent.begin_skill(name, PointVecEnv(sign=sign), STEPS)
    agent.learn(STEPS, reset_num_timesteps=False)
    agent.end_skill()


def acts(agent: Any, name: str) -> tuple[np.ndarray, ...]:
    with torch.no_grad():
        mean, log_std = agent.gaussian(torch.as_tensor(ROWS), agent.skill_index(name))
    return agent.act(ROWS, name), mean.numpy().copy(), log_std.detach().numpy().copy()


def same(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, one, other))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("updates", ["fast", "sb3"])
def test_earlier_skills_act_the_same_to_the_bit(kind: str, updates: str, normalize: bool) -> None:
    policy = {"normalize": normalize} | ({"layer_norm": normalize} if kind == "sac" else {})
    agent = conftest.make_agent(kind, [PackNet(skills=3)], updates=updates, **policy)
    then: dict[str, Any] = {}
    for name, sign in (("a", 1.0), ("b", -1.0), ("c", 0.5), ("beyond the plan", 2.0)):
        agent.begin_skill(name, PointVecEnv(sign=sign), STEPS)
        for _ in range(2):  # and while the next one is learned
            agent.learn(STEPS // 2, reset_num_timesteps=False)
            assert all(same(acts(agent, earlier), then[earlier]) for earlier in then)
        agent.end_skill()
        assert all(same(acts(agent, earlier), then[earlier]) for earlier in then)
        then[name] = acts(agent, name)
    assert not any(same(then["a"], then[name]) for name in ("b", "c"))


def test_skills_share_the_weights_equally_and_always_leave_some(kind: str) -> None:
    agent = conftest.make_agent(kind, [PackNet(skills=4)])
    for i in range(6):
        learn(agent, f"skill {i}")
    for owner in agent.policy.masks.owners:
        shares = [float((owner == k).sum()) / owner.numel() for k in range(7)]
        expected = [1 / 32, 1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
        assert np.allclose(shares, expected, atol=2 / owner.numel())
    assert agent.protections[0].bytes == sum(o.numel() for o in agent.policy.masks.owners)


def test_masks_keep_the_largest_and_show_what_is_owned() -> None:
    layer = torch.nn.Linear(4, 1)
    masks = Masks([layer])

    def put(*values: float) -> None:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([values]))

    put(1.0, -4.0, 3.0, 2.0)
    masks.prune(0, 0.5)
    assert layer.weight.tolist() == [[0.0, -4.0, 3.0, 0.0]]
    put(5.0, -4.0, 3.0, 6.0)  # as the next skill trains
    masks.show(0)
    assert layer.weight.tolist() == [[0.0, -4.0, 3.0, 0.0]]
    masks.show(None)
    assert layer.weight.tolist() == [[5.0, -4.0, 3.0, 6.0]]
    layer.weight.grad = torch.ones(1, 4)
    masks.hold(but=0)
    assert layer.weight.grad.tolist() == [[1.0, 0.0, 0.0, 1.0]]
    masks.prune(1, 0.5)
    assert layer.weight.tolist() == [[0.0, -4.0, 3.0, 6.0]]
    assert masks.owners[0].tolist() == [[0, 1, 1, 2]]
    layer.weight.grad = torch.ones(1, 4)
    masks.hold(but=2)
    assert layer.weight.grad.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_a_skill_prunes_within_its_budget_and_learns_on(kind: str) -> None:
    agent = conftest.make_agent(kind, [PackNet(skills=2, retrain=0.5)])
    agent.begin_skill("a", PointVecEnv(), STEPS)
    agent.learn(40)
    trunk = agent.trunk()[0].weight
    assert bool((trunk != 0).all())
    agent.learn(60, reset_num_timesteps=False)
    pruned = (trunk == 0).clone()
    assert 0.4 < float(pruned.float().mean()) < 0.6
    before = trunk.detach().clone()
    agent.learn(60, reset_num_timesteps=False)
    assert bool((trunk[pruned] == 0).all())
    assert not torch.equal(trunk[~pruned], before[~pruned])


def test_a_saved_agent_keeps_its_masks(kind: str, tmp_path: Path) -> None:
    agent = conftest.make_agent(kind, [PackNet(skills=2)])
    learn(agent, "a")
    learn(agent, "b", -1.0)
    agent.save(tmp_path / "agent")
    loaded: Any = (ContinualPPO if kind == "ppo" else ContinualSAC).load(
        tmp_path / "agent", trust_pickle=True
    )
    for name in ("a", "b"):
        assert same(acts(loaded, name), acts(agent, name))
    then = acts(loaded, "a"), acts(loaded, "b")
    loaded.set_env(PointVecEnv())
    learn(loaded, "c", 0.5)
    assert same(acts(loaded, "a"), then[0])
    assert same(acts(loaded, "b"), then[1])


def test_the_exported_graph_acts_for_every_skill_as_the_agent(kind: str) -> None:
    curriculum = make_curriculum(["arm-reach", "arm-push", "arm-press"])
    agent: Any = make_agent(
        kind,
        curriculum.observation_space,
        curriculum.action_space,
        worlds=4,
        protect={"packnet": {"skills": 4}},
        policy_kwargs={"net_arch": [16, 16], "normalize": True},
    )
    random = torch.Generator().manual_seed(0)
    weights = [layer.weight for layer in agent.trunk()]
    size = curriculum.observation_space.shape[0]
    for name in curriculum.names:
        agent.begin_skill(name, None, 100)
        agent.policy.features.update(torch.randn((64, size), generator=random))
        with torch.no_grad():
            for weight, owner in zip(weights, agent.policy.masks.owners, strict=True):
                weight += (owner == 0) * torch.randn(weight.shape, generator=random)
        if name != "press":  # the last is exported as it is learned
            agent.protections[0].after_skill(agent)
    nothing: Any = None  # measured
    voices = [Voice(skill.name, skill, agent, nothing) for skill in curriculum]
    session = onnxruntime.InferenceSession(
        onnx_graph.build(voices, curriculum).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    rows = np.random.default_rng(1).normal(0.0, 2.0, (200, size)).astype(np.float32)
    found = []
    for index, name in enumerate(curriculum.names):
        got = session.run(None, {"observation": rows, "skill": np.array(index)})[0]
        assert np.abs(got - agent.act(rows, name)).max() < 1e-5
        found.append(got)
    agent.policy.masks.owners[0].fill_(1)  # had the graph no masks it would differ
    assert np.abs(found[0] - agent.act(rows, "reach")).max() > 1e-2


def test_a_run_evaluates_and_exports_what_it_masked(tmp_path: Path) -> None:
    run = conftest.tiny_run(tmp_path / "run", {"packnet": {"skills": 2}})
    first, last = (run.agent(path) for path in run.finals()[1:])
    size = run.curriculum.observation_space.shape[0]
    rows = np.random.default_rng(0).normal(size=(50, size)).astype(np.float32)
    assert np.array_equal(first.act(rows, "reach"), last.act(rows, "reach"))
    assert run.retention().success[1][0] == run.retention().success[2][0]
    assert run.retention().returns[1][0] == run.retention().returns[2][0]
    assert export(run, allow_forgetting=True)  # it compares the graph with the agent


@pytest.mark.parametrize(("given", "planned"), [({}, 2), ({"skills": 5}, 5)])
def test_it_plans_for_the_curriculum_unless_told(given: dict[str, int], planned: int) -> None:
    run = prepare(["arm-reach", "arm-push"], protect={"packnet": given})
    assert run.config.protect == {"packnet": {"skills": planned}}


@pytest.mark.parametrize(
    "options", [{"multi_head": False}, {"optimizer_kwargs": {"weight_decay": 0.1}}]
)
def test_what_would_move_earlier_skills_is_refused(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="packnet needs"):
        conftest.make_agent(kind, [PackNet()], **options)


def test_it_stands_alone_and_needs_a_budget(kind: str) -> None:
    with pytest.raises(ValueError, match="PackNet takes no other protection beside it; drop it or"):
        conftest.make_agent(kind, [EWC(), PackNet()])
    agent = conftest.make_agent(kind, [EWC(0.0), PackNet()])
    with pytest.raises(ValueError, match="packnet prunes within a skill's budget; give begin"):
        agent.begin_skill("a")


def test_an_agent_of_no_skills_trains_as_any_other(kind: str) -> None:
    ends = []
    both: list[list[Protection]] = [[], [PackNet()]]
    for protect in both:
        agent = conftest.make_agent(kind, protect)
        agent.learn(80)
        ends.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    assert torch.equal(*ends)
