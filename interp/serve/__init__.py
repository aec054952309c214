"""The live probe of a judge: one types a prompt and sees the verdict and why, on a local page or in a notebook."""
