#!/usr/bin/env python3
"""Stage 5: steer replies in many languages with the concept vector of one language (Section 5 of arXiv 2402.18120).

  python control_generation.py --model-name llama2-chat --model-size 7B --concept harmfulness \\
      --source-lang en --target-lang en fr zh --prompts prompts.jsonl --layers 0.3:0.6 --strength=-1,-0.5,0,0.5,1

Reads the vectors of stage 1 and the prompts. Writes to <res-dir>/<model>/<concept>/control/<source>/ the replies
(generations.jsonl), refusal and other rates (control.csv) and figure_control; for several sources also
control_sources.csv and figure_control_sources, one folder up. The paper publishes no settings; these are our own.
"""

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from repe.runs import arguments as options
from repe.runs.control_arguments import CONTROL

if TYPE_CHECKING:
    from repe.control.experiment import ControlExperiment
    from repe.models.source import ModelSource

# Other modules are imported in the functions that use them: they take seconds, and --help does not need them.


def main(args: argparse.Namespace) -> None:
    from repe.runs import processes, stage

    processes.require_single("control")
    model = stage.model_source(args)
    experiments = prepare(args, model)
    if args.overwrite or any(experiment.pending() for experiment in experiments):
        loaded = model.load(with_head=True)
        for experiment in experiments:
            # In the chosen layers, adds the source language's vector to the states of the prompts and the replies.
            experiment.run(loaded, args.batch_size, args.overwrite)
    else:
        print("nothing to generate: all replies exist (use --overwrite to generate them again)")
    for _, of_concept in groupby(experiments, lambda experiment: experiment.concept):
        measure_and_draw([*of_concept])


def prepare(args: argparse.Namespace, model: "ModelSource") -> "list[ControlExperiment]":
    """An experiment for each concept and source language, checked before the model is loaded."""
    from repe.control.experiment import ControlExperiment
    from repe.control.generation import Decoding
    from repe.control.prompts import read_prompts
    from repe.control.reply_file import ReplyFile
    from repe.control.settings import ControlSettings
    from repe.control.steering import parse_layers
    from repe.results.result_file import SETTINGS
    from repe.results.vector_file import VectorFile
    from repe.runs import stage

    prompt_file = read_prompts(args.prompts)
    prompts = prompt_file.of(args.target_lang or args.lang)
    compared = list(dict.fromkeys(prompt.lang for prompt in prompts)) if "target_vector" in args.baseline else []
    decoding = Decoding(args.max_new_tokens, args.temperature, args.top_p, args.num_beams, args.seed)
    steering = (args.strength, args.strength_unit, args.operator, args.scope, args.baseline, args.random_draws)
    meta = stage.settings(args, model)
    experiments = []
    for concept, file in stage.result_files(args, model.label, args.concept or ["harmfulness"], VectorFile).items():
        vectors = file.of(list(dict.fromkeys([*args.source_lang, *compared])))
        file.check_settings(meta, "use these, or collect the vectors again with collect_vector.py --overwrite")
        layers = parse_layers(args.layers, len(vectors[args.source_lang[0]].directions))
        settings = ControlSettings(layers, *steering, decoding)
        for source in args.source_lang:
            record = {
                **{name: meta[name] for name in SETTINGS if name in meta},
                "prompts": prompt_file.sha256,
                "vectors": {language: vectors[language].digest for language in (source, *compared)},
                **settings.record(),
            }
            replies = ReplyFile(file.path.parent / "control" / source, record, prompt_file.prompts)
            experiments.append(ControlExperiment(concept, source, vectors, prompts, settings, replies))
            if not args.overwrite:
                replies.check_settings()
    return experiments


def measure_and_draw(experiments: "list[ControlExperiment]") -> None:
    """Tables and figures of one concept: refusal and other rates in each target language, for each source."""
    from repe.control.measures import largest_effects, measure
    from repe.plots import control_figures
    from repe.plots.style import save
    from repe.plots.tables import write_csv

    measures = {}
    for experiment in experiments:
        folder = experiment.file.folder
        measures[experiment.source] = table = measure([*experiment.file.rows.values()])
        figure = control_figures.refusal_panels(table, experiment.source)
        written = write_csv(table, folder, "control") + save(figure, folder, "figure_control")
        options.print_written([experiment.file.path, *written])
    effects = largest_effects(measures)
    if len(measures) > 1 and len(effects):
        figure = control_figures.effect_heat_map(effects)
        written = write_csv(effects, folder.parent, "control_sources")
        options.print_written(written + save(figure, folder.parent, "figure_control_sources"))


def parser() -> options.Parser:
    model = (options.MODEL, options.RUNNING, options.METHOD, options.SEED)
    return options.Parser(__doc__, CONTROL, *model, options.RESULTS, options.OVERWRITE)


def start() -> None:
    options.run(main, parser())


if __name__ == "__main__":
    start()
