"""torch's compiler is loaded by who compiles, and then keeps out of optimizers as ever."""

import subprocess
import sys

_TRAINS = """
import sys, torch
from clrl.agents import ContinualSAC
agent = ContinualSAC("MlpPolicy", "Pendulum-v1", learning_starts=10, batch_size=8, seed=0)
agent.learn(20)
assert "torch._dynamo" not in sys.modules, "the compiler was loaded"
"""

_COMPILES = """
import torch._dynamo
optimizer = torch.optim.Adam([torch.zeros(2, requires_grad=True)])

def clear(x):
    x = 2 * x
    optimizer.zero_grad()
    return x + 1

optimizer.load_state_dict(optimizer.state_dict())
print(torch._dynamo.explain(clear)(torch.ones(2)).graph_break_count)
for name in "add_param_group", "zero_grad", "state_dict", "load_state_dict":
    inner = getattr(torch.optim.Optimizer, name).__wrapped__
    print(vars(inner)["__dynamo_disable"].__qualname__)  # what the method calls
"""


def _out(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_does_not_load_the_compiler_and_leaves_it_as_it_is() -> None:
    untouched = _out("import torch\n" + _COMPILES)
    assert int(untouched.split()[0]) > 0  # torch does not trace an optimizer's own methods
    assert _out(_TRAINS + _COMPILES) == untouched
