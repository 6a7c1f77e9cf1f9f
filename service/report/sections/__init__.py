"""The sections of the page: each module turns figures into the plain data of a template."""
