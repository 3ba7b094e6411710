"""Access to a MuData: pairing, annotations, rows, values, checks. Needs no torch."""
