"""The output of transformations: taken from streams, sent in pieces, shown as lines."""
