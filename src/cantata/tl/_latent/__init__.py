"""What the dimensions of a latent space stand for."""
