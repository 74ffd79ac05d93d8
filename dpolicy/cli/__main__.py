from dpolicy.cli import command

command()
