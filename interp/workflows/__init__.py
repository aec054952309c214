"""What combines analyses: choosing on one half of the prompts and confirming on the other."""
