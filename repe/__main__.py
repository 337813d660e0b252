"""The tools as one command: python -m repe doctor|status|convert|export|report ... (each has --help)."""

import importlib
import sys

TOOLS = {
    "doctor": ("repe.tools.doctor", "check that a model is read correctly before a long run"),
    "status": ("repe.tools.status", "show which results are complete, stale or damaged"),
    "convert": ("repe.tools.convert", "turn downloaded .pk files into .pt files"),
    "export": ("repe.tools.export", "write concept vectors for other tools (safetensors, GGUF)"),
    "report": ("repe.tools.report.page", "put figures and tables on one HTML page"),
}


def main() -> None:
    """Run the tool that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m repe TOOL [options]\n")
        print("\n".join(f"  {tool:<9} {what}" for tool, (_, what) in TOOLS.items()))
        sys.exit(0)
    if name not in TOOLS:
        print(f"error: unknown tool {name!r}: choose one of {', '.join(TOOLS)}", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    sys.argv[0] = f"python -m repe {name}"
    importlib.import_module(TOOLS[name][0]).start()


if __name__ == "__main__":
    main()
