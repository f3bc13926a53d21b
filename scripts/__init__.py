"""One page per thing a person runs; the only package that reads configuration."""
