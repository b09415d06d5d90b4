"""`python -m tintype` is the same as `tintype`."""

from tintype.cli import main

main()
