"""`python -m interp.cli`, the same as `interp`."""

from interp.cli import main

main()
