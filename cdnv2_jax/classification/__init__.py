"""Classification: experiments that train classifiers, their evaluation, and prediction."""
