"""``python -m aspf.cli``: the command without its script."""

from . import main

main()
