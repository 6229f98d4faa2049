"""Placeholder."""

if __name__ != "clrl.envs":
    raise ImportError("this folder is the source of clrl.envs; import that instead")
