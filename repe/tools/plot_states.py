"""Draw the hidden states of a concept's texts in several languages, in two dimensions.

  python -m repe plot-states --model-path PATH_OR_HUB_ID --concept morality --lang en fr

Writes <res-dir>/<model>/states_<concept>_layer<l>.png and .pdf. Colours are the two sides, markers are languages. Left:
along the direction that the languages share, and the first principal component across it. Right: the first two
principal components. With --cache-states, states that are cached need no model.
"""

import argparse
from contextlib import suppress

from repe.errors import UserError
from repe.runs import arguments as options


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe import data
    from repe.analysis.layer_selection import Selection
    from repe.analysis.recognition import pair_states
    from repe.files import plain_name
    from repe.plots.state_figures import shared_direction, state_scatter
    from repe.plots.style import save
    from repe.runs import stage
    from repe.vectors.state_cache import StateCache

    if not args.concept or len(args.concept) != 1:
        raise UserError("plot-states needs exactly one concept: give it with --concept")
    ((concept, languages),) = stage.concepts_and_languages(args).items()
    source = stage.model_source(args)
    cache = StateCache(args.cache_states, source, source.record) if args.cache_states else None
    model = None if cache else source.load()
    states = {}
    for language in languages:
        pairs = data.read_pairs(data.data_file(args.data_dir, concept, language), concept)
        all_layers = pair_states(cache.of(data.texts_of(pairs)) if cache else model, pairs)  # type: ignore[arg-type]
        if isinstance(args.layer, int) and args.layer > len(all_layers):
            raise UserError(f"--layer {args.layer}: {source.label} has {len(all_layers)} layers; choose one of them")
        # A layer number, or the layer nearest to a relative depth.
        layer = args.layer if isinstance(args.layer, int) else 1 + Selection(args.layer).layer(len(all_layers), None)  # type: ignore[arg-type]
        states[language] = all_layers[layer - 1].double().cpu().numpy()
    name = f"states_{plain_name(concept, 'concept')}_layer{layer}"
    figure = state_scatter(states, f"{source.label}, {concept}, layer {layer}")
    options.print_written(save(figure, args.out_dir or args.res_dir / source.label, name))
    shared = shared_direction(states)
    print("share of pairs in the right order along the shared direction, which was fitted on the same pairs:")
    for language, one in states.items():
        print(f"  {language}  {((one[:, 0] - one[:, 1]) @ shared >= 0).mean():.2f}  {len(one)} pairs")


def layer_or_depth(text: str) -> int | float:
    """The type of `--layer`: a number from 1, or a relative depth below 1."""
    with suppress(argparse.ArgumentTypeError):
        if not isinstance(layer := options.layer_select(text), str):
            return layer
    raise argparse.ArgumentTypeError(f"{text!r} must be a layer number from 1, or a relative depth from 0 to below 1")


def start() -> None:
    groups = (options.SUBJECT, options.DATA, options.MODEL, options.RUNNING, options.CACHE, options.RESULTS)
    parser = options.Parser(__doc__, *groups)
    parser.add_argument(
        "--layer",
        type=layer_or_depth,
        default=0.5,
        metavar="L",
        help="number or relative depth (default: 0.5)",
    )
    parser.add_argument(
        "--out-dir", type=options.Path, metavar="DIR", help="folder for the figure (default: RES_DIR/MODEL)"
    )
    options.run(main, parser)
