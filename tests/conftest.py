"""Settings every test shares."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

# A shared machine may pause any example for longer than hypothesis allows.
settings.register_profile("clrl", deadline=None)
settings.load_profile("clrl")
