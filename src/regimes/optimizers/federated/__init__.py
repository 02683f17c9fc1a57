"""Rules that put together what clients have learned apart."""
