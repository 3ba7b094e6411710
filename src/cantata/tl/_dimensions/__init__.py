"""Sizes of latent spaces, estimated before a model is trained."""
