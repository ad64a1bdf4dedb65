"""The parts of a report, one file each: tables, plots and their texts. Each reads records and draws with report/drawing."""
