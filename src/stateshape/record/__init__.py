"""States on record: every trajectory a run trained on, as Parquet in its folder; written as it goes, read back bit for bit."""
