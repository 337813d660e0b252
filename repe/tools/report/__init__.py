"""Write one HTML page with all figures and tables of an analysis.

  python -m repe report --res-dir res

Writes report.html into the folder of the figures and tables: <res-dir>/cross_model, unless --out-dir gives another
folder, such as that of a single model. The page loads nothing from elsewhere. It has the figures, the values of heat
maps in their colours, sortable tables, example replies of control, and the settings of the runs. The same files give
the same bytes.
"""

import argparse
from pathlib import Path

from repe.files import write_whole
from repe.runs import arguments as options

NAME = "report.html"


def main(args: argparse.Namespace) -> None:
    # Imported here because it takes seconds.
    from repe.tools.report.page import render

    out_dir = args.out_dir or args.res_dir / "cross_model"
    page = render(args.res_dir, out_dir).encode()
    path = write_whole(out_dir / NAME, lambda file: file.write(page))
    print(f"wrote {path} ({len(page) / 2**20:.1f} MiB)")


def start() -> None:
    parser = options.Parser(__doc__, options.RESULTS)
    parser.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help="folder of the figures, tables and page (default: RES_DIR/cross_model)",
    )
    options.run(main, parser)
