"""Rules with a Kronecker-factored preconditioner of each layer."""
