"""Genes and peaks by their place on the genome."""
