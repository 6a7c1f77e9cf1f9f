"""How to read each table and figure of an evaluation's page; HTML."""

__all__ = [
    "ADAPTIVE", "BESIDE_PAPER", "BUDGETS", "COSTS", "CURVES", "FALSE_POSITIVES", "MATRIX", "OUTLIERS", "PATHS",
    "PROVENANCE", "REJECTION", "RESULTS", "SCORES", "SETS", "WORST_CASE",
]  # fmt: skip

RESULTS = (
    "Figures of attacks are on successful images: the natural original is classified correctly, the attacked image is"
    " not. AUROC is the chance that such an image scores above a natural one; 0.5 is guessing. TPR at 5 % FPR is the "
    "share of them found by a threshold that flags 5 % of these natural images; flagged is the share above the "
    "calibrated threshold. <b>Seen</b>: the detector was fitted on that set; <b>unseen</b>: it was not. Right of the "
    "line, the AUROC of trivial baselines (fitted alike, or on the set itself): what they reach needs no such detector."
)

MATRIX = (
    "AUROC (of successful attacks, or all outliers): a row for what a detector was fitted on, a column for what it "
    "was tested on. Blue is better than guessing, orange worse; a framed cell is a set that the detector was fitted "
    "on. Below the rule: baselines."
)

WORST_CASE = (
    "The share of images flagged under <i>every</i> attack that was successful on them, a row per detector, a column "
    "per choice of what it was fitted on. An attacker may try everything, so this is the figure to hold a detector "
    "to."
)

FALSE_POSITIVES = (
    "Natural images flagged by thresholds calibrated to the rate asked for. To be expected: where the rate of one run"
    " lies in 95 of 100 such evaluations, the luck of both samples counted; without that range, the interval of the "
    "rate."
)

CURVES = (
    "How many attacked images (successful ones) or outliers are found, upwards, at the price of how many natural "
    "images flagged by mistake, to the right; the second figure shows the left end, where a detector works, on a "
    "logarithmic axis. The dotted curve is guessing. Solid: the detector was fitted on that set; dashed: it was not."
)

REJECTION = (
    "Network and detector together, for every threshold. Natural images count when they are classified correctly and "
    "let through; attacked ones (successful or not) when they are flagged or classified correctly nevertheless; "
    "outliers when they are flagged."
)

SCORES = (
    "How many images of a set have which score. What lies right of the dashed threshold is flagged: natural images "
    "there are false positives, others left of it go unnoticed. Scores beyond the axis are counted in the outermost "
    "bars."
)

PATHS = (
    "What each residual block adds to the image it is given: above, how much (mean square of the residue); below, in "
    "which direction (cosine to the vector of ones). The grey band holds nine natural images in ten at each block, "
    "thick lines are medians, thin ones single images. Where a set’s line leaves the band, there is something to see."
)

OUTLIERS = (
    "All outliers against all natural images: AUROC, and small the share of natural images flagged where 95 % of the "
    "outliers are found. Means leave out sets that the detector was fitted on. A framed cell is such a set."
)

BUDGETS = (
    "The same attack with several budgets. Dotted: the share of images it succeeds on; lines: the share of its "
    "successful images that is flagged (AUROC where there is no threshold). Weak attacks succeed seldom and are hard "
    "to see; strong ones are easy to see."
)

COSTS = (
    "Seconds per image on the machine named below, means over sets and runs: making the attack, the network’s pass, "
    "what a detector measures beside it, and its score. Fitting counts once."
)

SETS = (
    "The images before any detector saw them. Success: images of an attack that are wrong now, per original that was "
    "right. L∞ and L2: medians of the perturbation, in units of pixels in [0, 1]. 8-bit: rounded to 1/255 as a file "
    "would be. <b>Broken</b>: statistics of the pixels alone tell the set from natural images."
)

ADAPTIVE = (
    "The attacker knows the detector. Turned: images that the network gets wrong and the detector lets pass at the "
    "end, per image that the attack was started on; such an attack can only show what breaks, never that nothing "
    "does."
)

BESIDE_PAPER = (
    "Published: thesis, tables 12 to 15 and 32 to 47, mean ± standard deviation over 5 runs where it is given. Ours: "
    "mean ± standard deviation over our runs, with the decision at a vote of 0.5 as published unless noted. Networks,"
    " training and attacks’ code differ; so do valid pixels: published attacks ran on normalised images."
)

PROVENANCE = (
    "All figures are in <code>report.json</code>, the results table in <code>report.csv</code>; "
    "<code>docs/report.md</code> explains every key."
)
