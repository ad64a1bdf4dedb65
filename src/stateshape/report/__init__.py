"""From record files to tables, plots and one HTML page: `stateshape.report.write.write_report(study_dir)`.

Reads what a study folder holds and nothing else: no model, no tensor library, no network. Does not know how any number
was computed, and computes none itself beyond sums, shares and means over seeds; a missing number stays missing.
"""
