"""Feature links: which features of two modalities correspond, and matrices of them."""
