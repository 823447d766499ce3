"""Files of weights of every kind, and what a network knows of its use."""
