"""What each command does once its words are parsed: one file per job."""
