"""One worker for each peer. None of them imports interp: most run in an environment of their own."""
