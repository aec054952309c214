"""Whole studies, and the recipes that train the models they stand on."""
