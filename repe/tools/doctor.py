"""Check that a model is read correctly before a long run.

  python -m repe doctor --model-path PATH_OR_HUB_ID

Prints the memory that the weights need (before they are read), the architecture, how a text reaches the model
(template, tokens, last token), and the largest difference between the model's hidden states and two references:
the same texts in batches of one, and Transformers' own hidden states. Differences above rounding errors end with exit
status 2. The last line but one says whether texts that share tokens can be packed.
"""

import argparse

from repe.errors import UserError
from repe.runs import arguments as options

TEXTS = (
    "I helped my neighbour carry her shopping up the stairs.",
    "He lied.",
    "我把捡到的钱包交给了警察，因为那不是我的东西。",
)
OPTIONS: options.Group = {
    "model": {name: options.MODEL["model"][name] for name in ("--model-name", "--model-size", "--model-path")},
    "running the model": {
        name: options.RUNNING["running the model"][name]
        for name in ("--template", "--device", "--dtype", "--revision", "--trust-remote-code")
    },
    "check": {"--text": {"default": TEXTS[0], "metavar": "TEXT", "help": "text to check with (default: a sentence)"}},
}


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe.runs.stage import model_source
    from repe.tools import model_check
    from repe.vectors.hidden_states import ROUNDING

    if not args.untrained:
        options.refuse(args, [options.SEED], "without --untrained")
    source = model_source(args)
    texts = list(dict.fromkeys([args.text, *TEXTS]))
    _show(model_check.memory(source))
    model = source.load()
    _show(model_check.architecture(model) | model_check.text_input(model, texts[0]))
    for comparison, difference in model_check.differences(model, texts).items():
        _show({comparison: f"largest relative difference {difference:.1e}"})
        if not difference <= ROUNDING[model.dtype]:
            raise UserError(
                f"{model.label}: hidden states differ by more than rounding errors ({comparison}): choose another "
                "--dtype, or do not use this model"
            )
    _show(model_check.reading(model))
    _show({"result": "ready for collect_vector.py"})


def _show(rows: dict[str, str]) -> None:
    for name, value in rows.items():
        print(f"{name:<24}{value}")


def start() -> None:
    parser = options.Parser(__doc__, OPTIONS, options.UNTRAINED, options.SEED)
    # The doctor writes no results, and refuses texts that exceed the context length.
    parser.set_defaults(model_label=None, model_family=None, truncate=False, batch_size=None)
    options.run(main, parser)
