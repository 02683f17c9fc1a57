"""Rules that read the curvature of the loss."""
