"""One file per place that labelled images are read from; `open_source` knows them all."""
