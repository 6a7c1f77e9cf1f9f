"""The page, section by section: each module turns figures into one section's HTML."""
