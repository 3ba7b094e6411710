"""Which features of two modalities are linked, and their values."""
