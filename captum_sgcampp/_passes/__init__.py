"""The passes of one attribution: one without noise, those with it, and what is averaged over them."""
