"""A run folder becomes pages and a summary. Nothing is computed here."""
