"""How does a small transformer do arithmetic? The study of this library's arithmetic models."""
