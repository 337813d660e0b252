#!/usr/bin/env python3
"""Stage 5: steer replies in many languages with the concept vector of one language (Section 5 of arXiv 2402.18120).

  python control_generation.py --model-name llama2-chat --model-size 7B --concept harmfulness \\
      --source-lang en --target-lang en fr zh --prompts prompts.jsonl --layers 0.3:0.6 --strength=-1,-0.5,0,0.5,1

Reads the vectors of stage 1 and the prompts (JSON lines with id, lang, prompt, harmful). Writes to
<res-dir>/<model>/<concept>/control/<source>/: generations.jsonl (one reply per line), control.csv (refusal and other
rates with 95 % intervals) and figure_control. With several source languages, also writes control_sources.csv and
figure_control_sources to <res-dir>/<model>/<concept>/control/. The paper does not publish its settings; the defaults
are the project's own.
"""

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from repe.errors import UserError
from repe.runs import arguments as options
from repe.runs import control_arguments as own

if TYPE_CHECKING:
    from repe.control.experiment import ControlExperiment
    from repe.control.settings import ControlSettings
    from repe.models.source import ModelSource

# Other modules are imported in the functions that use them: they take seconds, and --help does not need them.


def main(args: argparse.Namespace) -> None:
    from repe.runs import processes, stage

    processes.require_single("control")
    source = stage.model_source(args)
    experiments = prepare(args, source)
    steer_and_generate(args, source, experiments)
    measure_and_draw(args, source, experiments)


def prepare(args: argparse.Namespace, model: "ModelSource") -> "list[ControlExperiment]":
    """An experiment for each concept and source language, checked before the model is loaded."""
    from repe.control.experiment import ControlExperiment
    from repe.control.prompts import read_prompts
    from repe.control.reply_file import ReplyFile
    from repe.results.result_file import SETTINGS
    from repe.results.vector_file import VectorFile
    from repe.runs import stage

    prompt_file = read_prompts(args.prompts)
    prompts = prompt_file.of(args.target_lang or args.lang)
    targets = list(dict.fromkeys(prompt.lang for prompt in prompts))
    sources = args.source_lang
    if args.calibrate and sources[0] not in targets:
        raise UserError(f"--calibrate needs prompts in {sources[0]}, the first source: add it to --target-lang")
    compared = targets if "target_vector" in args.baseline else []
    meta = stage.settings(args, model)
    experiments = []
    for concept, file in stage.result_files(args, model.label, args.concept or ["harmfulness"], VectorFile).items():
        vectors = file.of(list(dict.fromkeys([*sources, *compared])))
        file.check_settings(meta, "use these, or collect the vectors again with collect_vector.py --overwrite")
        settings = settings_from(args, len(vectors[sources[0]].directions))
        for source in sources:
            record = {name: meta[name] for name in SETTINGS if name in meta} | {
                "prompts": prompt_file.sha256,
                "vectors": {language: vectors[language].digest for language in (source, *compared)},
            }
            folder = file.path.parent / "control" / source
            replies = ReplyFile(folder, record | settings.record(), prompt_file.prompts)
            experiments.append(ControlExperiment(concept, source, vectors, prompts, settings, replies))
            if not args.overwrite:
                replies.check_settings()
    return experiments


def settings_from(args: argparse.Namespace, layers: int) -> "ControlSettings":
    from repe.control.generation import Decoding
    from repe.control.settings import ControlSettings
    from repe.control.steering import parse_layers

    return ControlSettings(
        layers=parse_layers(args.layers, layers),
        strengths=args.strength,
        strength_unit=args.strength_unit,
        operator=args.operator,
        scope=args.scope,
        baselines=args.baseline,
        random_draws=args.random_draws,
        calibrated_on=args.source_lang[0] if args.calibrate else None,
        decoding=Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams, args.seed),
    )


def steer_and_generate(args: argparse.Namespace, model: "ModelSource", experiments: "list[ControlExperiment]") -> None:
    if not args.overwrite and not any(experiment.pending() for experiment in experiments):
        print("nothing to generate: all replies exist (use --overwrite to generate them again)")
        return
    loaded = model.load(with_head=True)
    for experiment in experiments:
        experiment.run(loaded, args.batch_size, args.overwrite)


def measure_and_draw(args: argparse.Namespace, model: "ModelSource", experiments: "list[ControlExperiment]") -> None:
    from repe.control.measures import largest_effects, measure
    from repe.control.replies import Classifier
    from repe.plots import control_figures, style, tables

    judge = Classifier(args.classifier, model.device) if args.classifier else None
    for _, of_concept in groupby(experiments, lambda experiment: experiment.concept):
        measures = {}
        for experiment in of_concept:
            rows, file = [*experiment.file.rows.values()], experiment.file
            refusals = judge.are_refusals([row["reply"] for row in rows]) if judge else None
            measures[experiment.source] = table = measure(rows, refusals)
            figure = control_figures.refusal_panels(table, experiment.source)
            written = [file.path, *tables.write_csv(table, file.folder, "control")]
            options.print_written(written + style.save(figure, file.folder, "figure_control"))
        effects = largest_effects(measures)
        if len(measures) > 1 and len(effects):
            folder = file.folder.parent
            figure = control_figures.effect_heat_map(effects, matched=args.calibrate)
            written = tables.write_csv(effects, folder, "control_sources")
            options.print_written(written + style.save(figure, folder, "figure_control_sources"))


def parser() -> options.Parser:
    model = (options.MODEL, options.RUNNING, options.METHOD, options.SEED)
    return options.Parser(__doc__, own.PROMPTS, own.STEERING, own.REPLIES, *model, options.RESULTS, options.OVERWRITE)


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
