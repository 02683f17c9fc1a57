"""What claims measure that is no comparison of two regimes: ``function(seed) -> (value, baseline)``, higher is better."""
