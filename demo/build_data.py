"""Compose the demo's data (MVALUE layout) and its training sentences from the text in demo/text.

    python -m demo.build_data                 # writes demo/data
    python -m demo.build_data --out /tmp/data # somewhere else

A source, demo/text/<concept>/<language>.json, has `acts`, {act: {"pos": ..., "neg": ...}}, and two sets of templates
with "{act}" in them: `contexts` for the data and `training_contexts` for the text that the models are trained on.
A new concept or language is a new file.
"""

import argparse
import json
from pathlib import Path

DEMO = Path(__file__).parent
TEXT = DEMO / "text"

SIDES = ("pos", "neg")

Source = dict[str, dict]


def read_sources(text_dir: Path = TEXT) -> dict[str, dict[str, Source]]:
    """{concept: {language: source}} of every file in `text_dir`, by name."""
    sources: dict[str, dict[str, Source]] = {}
    for path in sorted(text_dir.glob("*/*.json")):
        sources.setdefault(path.parent.name, {})[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    return sources


def compose(acts: dict[str, dict[str, str]], contexts: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """{act: {context: {"pos": sentence, "neg": sentence}}}: each act in each context, as MVALUE lays out a concept."""
    return {
        act: {
            context: {side: template.replace("{act}", sides[side]) for side in SIDES}
            for context, template in contexts.items()
        }
        for act, sides in acts.items()
    }


def training_sentences(source: Source) -> list[tuple[str, str]]:
    """(sentence, side) of every act, training context and side of one source; none of them is in the data."""
    composed = compose(source["acts"], source["training_contexts"])
    return [(pair[side], side) for contexts in composed.values() for pair in contexts.values() for side in SIDES]


def write_data(out: Path) -> None:
    """Writes <out>/<concept>/<concept>_<language>.json for every source."""
    for concept, languages in read_sources().items():
        folder = out / concept
        folder.mkdir(parents=True, exist_ok=True)
        for language, source in languages.items():
            data = compose(source["acts"], source["contexts"])
            text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
            (folder / f"{concept}_{language}.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compose the demo's data from demo/text.")
    parser.add_argument("--out", type=Path, default=DEMO / "data", help="folder to write (default: demo/data)")
    write_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
