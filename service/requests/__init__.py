"""The options of each command: frozen dataclasses of plain values, one field per command-line option."""
