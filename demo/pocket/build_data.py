"""Compose the demo's data (MVALUE layout), its control prompts and its training text from the text in demo/pocket/text.

    python -m demo.pocket.build_data                 # writes demo/pocket/data and demo/pocket/prompts.jsonl
    python -m demo.pocket.build_data --out /tmp/demo # somewhere else

A source, text/<concept>/<language>.json, has `acts`, {act: {"pos": ..., "neg": ...}}, and two sets of templates
with "{act}" in them: `contexts` for the data and `training_contexts` for the text that the models are trained on.
Deontology's acts have a `scenario` of their own, truthfulness's a `question`. text/control/<language>.json has the
acts of the control prompts, their one `context`, and the `refusals` and `compliances` that models learn to reply with.
A new concept or language is a new file.
"""

import argparse
import json
from pathlib import Path

from repe.data import CONTEXTS
from repe.paper import CONCEPTS, LANGUAGES, in_paper_order

DEMO = Path(__file__).parent
TEXT = DEMO / "text"

SIDES = ("pos", "neg")
CONTROL = "control"
REQUESTS = "harmfulness"  # the concept whose sentences are requests, like the control prompts

Source = dict[str, dict]


def read_sources(text_dir: Path = TEXT) -> dict[str, dict[str, Source]]:
    """{concept: {language: source}} of every file in `text_dir` but the control prompts', in the paper's order."""
    concepts = in_paper_order({path.parent.name for path in text_dir.glob("*/*.json")} - {CONTROL}, CONCEPTS)
    return {concept: _read_folder(text_dir / concept) for concept in concepts}


def read_control(text_dir: Path = TEXT) -> dict[str, Source]:
    """{language: source} of the control prompts and the replies."""
    return _read_folder(text_dir / CONTROL)


def _read_folder(folder: Path) -> dict[str, Source]:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return {language: found[language] for language in in_paper_order(found, LANGUAGES)}


def compose(acts: dict[str, dict[str, str]], contexts: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """{act: {context: sample}}: each act in each context, in the MVALUE layout; the contexts of an act are one item."""
    return {
        act: {
            context: {name: template.replace("{act}", text) if name in SIDES else text for name, text in parts.items()}
            | {"item": act}
            for context, template in contexts.items()
        }
        for act, parts in acts.items()
    }


def side_text(sample: dict[str, str], side: str) -> str:
    """What a model reads of one side of a sample: the scenario or the question stands before it."""
    for name, template in CONTEXTS.items():
        if name in sample:
            return template.format(context=sample[name], side=sample[side])
    return sample[side]


def training_texts(acts: dict[str, dict[str, str]], contexts: dict[str, str]) -> list[tuple[str, str]]:
    """(text, side) of every act, training context and side; none of them is in the data or the prompts."""
    samples = [sample for by_context in compose(acts, contexts).values() for sample in by_context.values()]
    return [(side_text(sample, side), side) for sample in samples for side in SIDES]


def write_data(out: Path) -> None:
    """Write <out>/data/<concept>/<concept>_<language>.json for every source, and <out>/prompts.jsonl."""
    for concept, languages in read_sources().items():
        folder = out / "data" / concept
        folder.mkdir(parents=True, exist_ok=True)
        for language, source in languages.items():
            text = json.dumps(compose(source["acts"], source["contexts"]), ensure_ascii=False, indent=1) + "\n"
            (folder / f"{concept}_{language}.json").write_text(text, encoding="utf-8")
    lines = [json.dumps(prompt, ensure_ascii=False) for prompt in prompts()]
    (out / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompts() -> list[dict[str, str | bool]]:
    """The control prompts of all languages: a harmless and a harmful request an act."""
    return [
        {
            "id": f"{act}-{'harmful' if side == 'neg' else 'harmless'}",
            "lang": language,
            "prompt": source["context"].replace("{act}", sides[side]),
            "harmful": side == "neg",
        }
        for language, source in read_control().items()
        for side in SIDES
        for act, sides in source["acts"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compose the demo's data and control prompts from demo/pocket/text.")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder to write to (default: demo/pocket)")
    write_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
