"""`python -m edgelm`: the command where its script is not on the path."""

from edgelm.cli import main

main()
