"""Check that a model is read correctly before a long run.

  python -m repe doctor --model-path PATH_OR_HUB_ID

Prints the memory that the weights need (before they are read), the architecture, how a text reaches the model
(template, tokens, last token), and the largest difference between the model's hidden states and two references:
the same texts in batches of one, and Transformers' own hidden states. Differences above rounding errors end with exit
status 2.
"""

import argparse

from repe.errors import UserError
from repe.runs import arguments as cli
from repe.tools import options

TEXTS = (
    "I helped my neighbour carry her shopping up the stairs.",
    "He lied.",
    "我把捡到的钱包交给了警察，因为那不是我的东西。",
)


def main(args: argparse.Namespace) -> None:
    # Imported here because they take seconds.
    from repe.models.verification import ROUNDING
    from repe.runs import chosen as selection
    from repe.tools import model_check

    chosen = selection.model(args)
    texts = list(dict.fromkeys([args.text, *TEXTS]))
    _show(model_check.memory(chosen.folder, chosen.dtype, chosen.device, chosen.published_dtype))
    model = chosen.load()
    _show(model_check.architecture(model) | model_check.text_input(model, texts[0]))
    for comparison, difference in model_check.differences(model, texts).items():
        _show({comparison: f"largest relative difference {difference:.1e}"})
        if not difference <= ROUNDING[model.dtype]:
            raise UserError(
                f"{model.label}: hidden states differ by more than rounding errors ({comparison}): choose another "
                "--dtype, or do not use this model"
            )
    _show({"result": "ready for collect_vector.py"})


def _show(rows: dict[str, str]) -> None:
    for name, value in rows.items():
        print(f"{name:<24}{value}")


def start() -> None:
    parser = options.parser("doctor", __doc__ or "")
    add = options.add_model(parser).add_argument
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model (default: refuse)")
    add("--template", metavar="TEXT", help='prompt with "{input}" for the text, or auto (default: from the registry)')
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    dtypes = ("auto", "float32", "float16", "bfloat16")
    add("--dtype", choices=dtypes, default="auto", help="auto: as published on a GPU, float32 on a CPU (default: auto)")
    parser.add_argument(
        "--text", default=TEXTS[0], metavar="TEXT", help="text to show and to compare (default: a sentence)"
    )
    # The doctor writes no results, and refuses texts that are too long.
    parser.set_defaults(model_label=None, model_family=None, truncate=False)
    cli.run(main, parser)
