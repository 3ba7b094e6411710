"""Links between features of two modalities, and networks and groups of features."""
