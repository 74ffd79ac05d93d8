"""`python -m dpolicy` is `dpolicy`."""

from dpolicy.cli import command

command()
