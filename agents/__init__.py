"""Placeholder."""

if __name__ != "clrl.agents":
    raise ImportError("this folder is the source of clrl.agents; import that instead")
