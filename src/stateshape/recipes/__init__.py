"""Methods: one file and one dataclass per method, whose fields are its settings. names lists them; recipe says what one
is.

Builds a method from states, signals and losses. Loads no model. Imported by study and the command line.
"""
