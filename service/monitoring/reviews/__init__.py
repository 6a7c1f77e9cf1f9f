"""The store of served verdicts, their reviews, and images that are kept for reviewers; see docs/review.md."""
