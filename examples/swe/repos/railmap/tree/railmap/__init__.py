"""Lines of a railway."""
