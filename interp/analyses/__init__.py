"""One module, one question each: typed functions that keep the prompt axis."""
