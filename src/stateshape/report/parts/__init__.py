"""The parts of a report, one file each: tables, plots and what they say. Each reads records and draws with report/drawing."""
