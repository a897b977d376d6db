"""The protocols: one file is one recipe; helpers of one lie beside it under its name."""
