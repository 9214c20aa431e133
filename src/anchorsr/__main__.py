"""`python -m anchorsr`; also the entry point for `torchrun -m anchorsr`."""

from anchorsr.cli.app import main

main()
