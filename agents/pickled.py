"""The gate before Stable-Baselines3's own loaders, which run what a file tells them to."""

PICKLED = (
    "it holds pickles, which can run any code when they are loaded; if you trust whoever made it, "
    "take it in with `clrl import --trust-pickle`, or load it in Python, such as by "
    "ContinualPPO.load(file, trust_pickle=True)"
)


def require_trust(path: object, trust_pickle: bool) -> None:
    """Let nothing through that was not asked for.

    Raises:
        ValueError: `trust_pickle` is not True; one line.
    """
    if trust_pickle is not True:
        raise ValueError(f"{path} was not loaded: {PICKLED}")
