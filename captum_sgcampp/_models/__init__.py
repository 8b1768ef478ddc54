"""What can be read from a model without running it."""
