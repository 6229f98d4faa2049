"""`python -m clrl` is the `clrl` command."""

from clrl.cli import main

if __name__ == "__main__":
    main()
