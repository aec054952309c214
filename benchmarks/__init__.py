"""interp beside its peers: the same jobs, weights, prompts and answers, results compared before times are."""
