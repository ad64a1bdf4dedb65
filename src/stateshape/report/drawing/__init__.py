"""How a report looks: the table model, figures, colours, labels, SVG and text. Knows no record."""
