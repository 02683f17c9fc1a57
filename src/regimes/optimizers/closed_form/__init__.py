"""Rules that solve for weights instead of descending to them."""
