"""All stages in one command, and tools for models, result files and figures.

Each tool has its own options: python -m repe TOOL --help
"""

import importlib
import sys

from repe.runs.arguments import Parser

TOOLS = {
    "run": ("repe.tools.run", "run stages 1 to 4 and the report on one model"),
    "doctor": ("repe.tools.doctor", "check that a model is read correctly before a long run"),
    "status": ("repe.tools.status", "list complete, incomplete, stale and damaged result files"),
    "convert": ("repe.tools.convert", "convert released downloads (.pk) to result files (.pt)"),
    "export": ("repe.tools.export", "write concept vectors as safetensors or GGUF files"),
    "noise": ("repe.tools.noise", "damage training texts: which languages break first"),
    "plot-states": ("repe.tools.plot_states", "draw hidden states of several languages in two dimensions"),
    "traits": ("repe.tools.report.traits", "answer the paper's questions in numbers, also from downloads"),
    "score": ("repe.tools.score", "judge replies from anywhere: refusal, following"),
    "report": ("repe.tools.report", "write one HTML page with all figures and tables"),
}


def start() -> None:
    """Run the tool that the first argument names, with the arguments that follow it."""
    sys.argv[0] = "python -m repe"
    parser = Parser(__doc__)
    parser.usage = "python -m repe TOOL [options]"
    parser.epilog = "tools:\n" + "\n".join(f"  {tool:<13}{summary}" for tool, (_, summary) in TOOLS.items())
    parser.add_argument("tool", choices=TOOLS, metavar="TOOL", help="name of a tool")
    tool = parser.parse_args(sys.argv[1:2] or ["--help"]).tool
    sys.argv[:2] = [f"python -m repe {tool}"]
    importlib.import_module(TOOLS[tool][0]).start()


if __name__ == "__main__":
    start()
