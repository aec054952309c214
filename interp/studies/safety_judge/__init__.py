"""The safety judge: what it looks at, when it learned it, and how an update changes it."""
