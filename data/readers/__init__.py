"""One file per outside format; each yields the tables of `data.schema`."""
