"""Match the cells of two modalities without pairs, for suggestions of links."""
