"""The command line: it parses and shows; the work is in :mod:`fashionbatch.api`."""
