"""One pass through the model: what runs, what layers return, and the gradients at them."""
