"""HTML pages from templates: the parts that sections are made of, and their rendering."""
