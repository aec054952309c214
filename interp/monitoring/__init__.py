"""Watching a judge while it trains: what is measured and written down. Pages are made from the records, above."""
