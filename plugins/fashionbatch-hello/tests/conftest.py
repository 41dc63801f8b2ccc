"""What the tests share: small photographs, a data set, a finished run, the command line."""

from fashionbatch.testing.fixtures import *  # noqa: F403
