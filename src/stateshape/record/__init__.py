"""States on record: every trajectory a run trained on, as Parquet in its folder; written as it goes, read back bit for
bit.

writer: the watch that records. schema, rows, parts: the file format. reading: back into states. text: ids to text, the
one right way. query: browsing and SQL. Imported by recipes (replay), train, study and the command line.
"""
