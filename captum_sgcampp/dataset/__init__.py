"""Maps of a whole dataset, by any number of processes."""
