"""Placeholder."""

if __name__ != "clrl.eval":
    raise ImportError("this folder is the source of clrl.eval; import that instead")
