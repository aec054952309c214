"""Files and generators that become prompts."""
