"""Methods: one file and one dataclass per method, whose fields are its settings. names lists them; recipe defines
one.

Builds a method from states, signals and losses. Loads no model. Imported by study and the command line.
"""
