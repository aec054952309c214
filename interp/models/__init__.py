"""Loading models, running them, editing what they compute."""
