"""`python -m interp`: the same as the `interp` command."""

from interp.cli import main

if __name__ == "__main__":
    main()
