"""How to read each table and figure of the page; HTML."""

__all__ = ["DETAILS", "HEADLINE", "PATHS", "PROVENANCE", "ROC", "SCORES", "TOGETHER"]

HEADLINE = (
    "AUROC, TPR and flagged are on successful images: the natural original is classified correctly, the attacked "
    "image is not. AUROC is the chance that an attacked image scores above a natural one; 0.5 is guessing. TPR at "
    "5 % FPR is the share of attacked images found by a threshold that flags 5 % of these natural ones. "
    "<b>Seen</b>: the detector was fitted on that attack; <b>unseen</b>: it was not. Small figures are 95 % "
    "intervals."
)

DETAILS = (
    "Failed: all that are not successful, those included that the network got wrong before. TPR: share of "
    "attacked images found; FPR: share of natural images flagged. AUPR depends on how many there are of each "
    "kind."
)

TOGETHER = (
    "Together: natural images classified correctly and let through; attacked images flagged, or classified "
    "correctly nevertheless. At 0.5: the published protocol. An image is flagged when either forest votes 0.5 or "
    "more; all attacked images and as many natural ones count. A dash: the detector has no such forests."
)

ROC = (
    "Each curve shows how many attacked images are found (upwards) at the price of how many natural ones flagged "
    "by mistake (to the right, logarithmic). Further up and to the left is better; the dotted curve is guessing. "
    "Solid: the detector was fitted on that attack; dashed: it was not. The left edge stands for no natural image "
    "flagged at all."
)

SCORES = (
    "How many images of a set have which score. What lies right of the dashed threshold is flagged: natural "
    "images there are false positives, attacked ones left of it go unnoticed. Scores beyond the axis are counted "
    "in the outermost bars."
)

PATHS = (
    "What each residual block adds to the image it is given: above, how much (mean square of the residue); below, "
    "in which direction (cosine to the vector of ones). The grey band holds nine natural images in ten at each "
    "block, thick lines are medians, thin ones single images. Where an attack’s line leaves the band, there is "
    "something to see."
)

PROVENANCE = "All figures are in <code>report.json</code>, every judged image in <code>report.csv</code>."
