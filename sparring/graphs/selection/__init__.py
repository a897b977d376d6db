"""Ways to come from one pool of samples to an answer, a method or a family of them a file."""
