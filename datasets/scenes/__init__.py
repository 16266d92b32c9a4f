"""Drawing synthetic street scenes; `datasets.synthetic` is the way in."""
