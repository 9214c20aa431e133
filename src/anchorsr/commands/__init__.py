"""The commands, by what they are about; `anchorsr.cli` gathers them."""
