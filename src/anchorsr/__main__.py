"""`python -m anchorsr`, and what `torchrun -m anchorsr` starts."""

from anchorsr.cli.app import main

main()
