"""Numeric helpers: arrays in, arrays out."""
