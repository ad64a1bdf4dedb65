"""What a notebook shows: a study, its tables, states and figures as objects, evaluations as frames, and progress. Torch-free.

Read from a study's files alone; nothing here computes a number or rebuilds a report. Only api.py imports this room.

frame.py       a table: HTML, arrow, pandas, polars
evaluation.py  the rows of an evaluation
states.py      the states on record, and SQL over them
figure.py      a plot of the report, inline
study.py       a study's folder
progress.py    progress in a notebook
"""
