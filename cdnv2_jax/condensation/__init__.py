"""From a dense network to a condensed one: when to prune, what to prune, how to condense."""
