"""Images in, classes out: with any network that was saved or exported."""
