"""The jobs: what each command does after its options are parsed, one file per command."""
