"""Software tasks: instances, predictions, test results by id, the resolution rule."""
