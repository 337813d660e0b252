"""Names of choices and defaults that several parts share. Importing this costs nothing."""

# How directions are found (`--direction-method`, `repe.vectors.readers`).
METHODS = ("cluster_mean", "pca", "random", "logistic", "lda")

# Similarity of languages beyond the cosine of their vectors, with titles; the last two need hidden states.
SIMILARITIES = {
    "rsa": "Correlation of the concepts' cosines",
    "angles": "Mean cosine of principal angles",
    "cka": "Linear CKA, debiased",
    "procrustes": "Procrustes similarity",
}
OF_STATES = ("cka", "procrustes")

# How hidden states are changed, at which tokens, and what replies are compared (`repe.control`).
OPERATORS = ("linear_comb", "piecewise_linear", "projection")
# Relative depths and strengths that move replies and leave them fluent (measured: docs/control.md).
LAYERS = "0.3:0.6"
STRENGTHS = (-0.7, -0.35, 0.0, 0.35, 0.7)
SCOPES = ("all", "prompt", "generated", "last")
BASELINES = ("none", "concept", "random", "shuffled", "target_vector", "prompt")
# Those that need neither another run of stage 1 nor a chat model.
DEFAULT_BASELINES = ("none", "concept", "random", "target_vector")

# Bootstrap draws and permutations where their number is not given.
DRAWS, PERMUTATIONS = 2000, 9999
# Swaps of labels in each null; more for a language's own vectors, whose p-values are corrected for many cells.
SWAPS, OWN_SWAPS = 1000, 9999
