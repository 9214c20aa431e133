"""The entry point of `anchorsr`, of `python -m anchorsr` and of `torchrun -m anchorsr`."""

import os
import signal
import sys


def main() -> None:
    """Run the command line.

    Ctrl-C during the imports, which take a moment, ends the process as the system does, without a
    traceback. From then on `anchorsr.cli.app` handles it, and other requests to stop as well.
    """
    # Threads of OpenBLAS wait for each other in busy loops. Where other processes need the
    # processors too, the exact arithmetic takes ten times as long with two threads as with one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from anchorsr.cli import app

    app.command_line(*sys.argv[1:2])  # imports what the command needs
    if handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(app.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
