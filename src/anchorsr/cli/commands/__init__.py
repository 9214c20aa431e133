"""The commands, by topic; `anchorsr.cli.app` gathers them."""
