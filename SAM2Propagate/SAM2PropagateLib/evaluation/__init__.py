"""How good a propagation is: cases with reference labels, a simulated user, and scores. Imports no torch."""
