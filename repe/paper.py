"""Facts of the paper as data: concepts, languages, model families and the settings its figures use.

Xu, Dong, Guo, Wu, Xiong: "Exploring Multilingual Human Value Concepts in Large Language Models: Is Value Alignment
Consistent, Transferable and Controllable across Languages?", arXiv 2402.18120, Findings of EMNLP 2024.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONCEPTS = ("morality", "deontology", "utilitarianism", "fairness", "truthfulness", "toxicity", "harmfulness")

# The order of the columns of Table 6 and of the groups of Figure 2.
LANGUAGES = ("en", "fr", "zh", "es", "pt", "vi", "ca", "id", "ja", "ko", "fi", "hu", "ta", "te", "sw", "ny")

# The languages that all three families are compared in (similarity across layers).
SHARED_LANGUAGES = ("en", "fr", "zh", "es", "pt", "vi", "ca", "id")

# Share of training pairs; the rest is the test set, also when fewer pairs are used for training.
TRAIN_SHARE = 0.8

# One model of about seven billion parameters per family: Figures 4 and 5, and the dashed lines of Figure 2.
SEVEN_BILLION = ("llama2-chat-7B", "qwen-chat-7B", "bloomz-7B1")

# The linguistic distances of Table 1, in its order.
DISTANCES = ("genetic", "syntactic", "geographic", "phonological")


@dataclass(frozen=True)
class Family:
    """Models with the same mix of pre-training languages, which decides the languages of their figures."""

    name: str
    """As on the command line (`--model-family`)."""
    label: str
    """As printed in tables and figures."""
    axis: tuple[str, ...] = ()
    """Languages of the cross-lingual figures, by decreasing share of the pre-training text."""
    left_out: tuple[str, ...] = ()
    """Languages with almost no pre-training text, which the cross-lingual figures leave out (Section 4)."""
    high_resource: tuple[str, ...] = ()
    """High-resource languages in the column "Split" of Table 1; empty if not known."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Percent of the pre-training text by language, where published."""
    kind: str = ""
    """How the languages share the pre-training text, in the paper's words."""
    source: str = ""
    """Where the shares, or the order of `axis`, are from."""

    def order(self, languages: Iterable[str]) -> list[str]:
        """`languages` in the order of the family's figures: by share, without those left out, unknown ones last."""
        given = list(languages)
        known = [language for language in self.axis if language in given]
        return known + [lang for lang in given if lang not in self.axis and lang not in self.left_out]


_LLAMA2_SHARES = {
    "en": 89.70,
    "fr": 0.16,
    "zh": 0.13,
    "es": 0.13,
    "ja": 0.10,
    "pt": 0.09,
    "vi": 0.08,
    "ko": 0.06,
    "ca": 0.04,
    "id": 0.03,
    "fi": 0.03,
    "hu": 0.03,
}
_BLOOMZ_SHARES = {
    "en": 30.03774,
    "zh": 16.16741,
    "fr": 12.89844,
    "es": 10.84550,
    "pt": 4.91041,
    "vi": 2.70733,
    "id": 1.23708,
    "ca": 1.10206,
    "ta": 0.49485,
    "te": 0.18541,
    "sw": 0.01465,
    "ny": 0.00007,
}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="llama2",
            label="LLaMA2-chat",
            axis=("en", "fr", "zh", "es", "ja", "pt", "vi", "ko", "ca", "id", "fi", "hu"),
            left_out=("ny", "sw", "ta", "te"),
            high_resource=("en",),
            shares=_LLAMA2_SHARES,
            kind="English-dominated",
            source="the released code; Touvron et al. 2023 (Llama 2), table of the pre-training languages",
        ),
        # Qwen's shares are not published; the released values only fix the order of the axis.
        Family(
            name="qwen",
            label="Qwen-chat",
            axis=("zh", "en", "fr", "es", "ja", "pt", "vi", "ko", "ca", "id", "fi", "hu"),
            left_out=("ny", "sw", "ta", "te"),
            high_resource=("zh", "en"),
            kind="Chinese- and English-dominated",
            source="not published; the order of the released code",
        ),
        Family(
            name="bloomz",
            label="BLOOMZ",
            axis=("en", "zh", "fr", "es", "pt", "vi", "id", "ca", "ta", "te", "sw", "ny"),
            left_out=("ja", "ko", "fi", "hu"),
            high_resource=SHARED_LANGUAGES,
            shares=_BLOOMZ_SHARES,
            kind="balanced",
            source="the released code; BigScience 2022 (BLOOM), languages of the training text",
        ),
        # An unknown model: all languages in the order given; which are high-resource is not known.
        Family(name="none", label=""),
    )
}


SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(\d*)(?![a-z0-9])", re.IGNORECASE)
"""The number of parameters in a model's name: 7B, 560M, 1B8, 0.5B."""


def billions(model: str) -> float:
    """Billions of parameters according to a model's name (560M, 1B8, 0.5B), or 0 if it has none."""
    sizes = SIZE.findall(model)
    whole, unit, part = sizes[-1] if sizes else ("0", "b", "")
    return float(f"{whole}.{part}" if part else whole) * (1 if unit in "bB" else 1e-3)


def split_suffix(split: float, by: str = "pair", folds: int | None = None, tested_on: str | None = None) -> str:
    """What the name of a results folder ends in: nothing for the published split, else `-0.4-item`, `-folds5` etc.

    Accuracies on another data folder end in its name, `-on-probes`.
    """
    on = f"-on-{tested_on}" if tested_on else ""
    if folds:
        return f"-folds{folds}{on}"
    return ("" if split == TRAIN_SHARE else f"-{split}") + ("" if by == "pair" else f"-{by}") + on


def seven_billion(folders: Iterable[str]) -> list[str]:
    """The results folders of the paper's three models of about seven billion parameters, in the order of `folders`.

    Folders of other splits count as well. Empty unless all three models are among them.
    """
    of_model = {folder: re.sub(r"(-\d+\.\d+)?(-item|-folds\d+)?(-on-.+)?$", "", folder) for folder in folders}
    found = [folder for folder, model in of_model.items() if model in SEVEN_BILLION]
    return found if {of_model[folder] for folder in found} == set(SEVEN_BILLION) else []


def family_by_name(model: str) -> Family:
    """The family of a model by its name: it contains llama, qwen or bloom, else `none`."""
    for part, name in (("llama", "llama2"), ("qwen", "qwen"), ("bloom", "bloomz")):
        if part in model.lower():
            return FAMILIES[name]
    return FAMILIES["none"]


def in_paper_order(names: Iterable[str], order: tuple[str, ...]) -> list[str]:
    """`names` without repeats: those in `order` first, in that order, then the others by name."""
    unique = set(names)
    return [name for name in order if name in unique] + sorted(unique.difference(order))
