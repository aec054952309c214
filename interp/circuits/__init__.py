"""Features instead of neurons: transcoders, and graphs of how features make other features and the answer."""
