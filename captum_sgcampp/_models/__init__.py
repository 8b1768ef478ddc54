"""What a model tells of itself without being run."""
