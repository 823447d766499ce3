"""One file per kind of data source; `open_source` knows them all."""
