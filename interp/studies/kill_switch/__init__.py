"""What does a control token do in a model, and was it learned? Activation differences with controls."""
