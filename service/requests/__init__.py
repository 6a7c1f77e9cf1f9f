"""What each command takes: frozen dataclasses of plain values, one field per command-line option."""
