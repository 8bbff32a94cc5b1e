"""Export a training checkpoint as it stands: ``python examples/models/export.py large``."""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fathom_examples.architecture import SIZES, export_model  # noqa: E402


def main() -> None:
    """Read the command line and write bf16 weights, replacing those that stand there in one rename each."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--work", type=Path, default=HERE / ".work")
    parser.add_argument("--output", type=Path, help="default: the size's folder beside this script")
    arguments = parser.parse_args()
    state = torch.load(arguments.work / f"{arguments.size}.pt", weights_only=True)
    output = arguments.output or HERE / arguments.size
    training = {"steps": state["step"], "tokens": state["tokens"], "seconds": round(state["spent_s"])}
    export_model(SIZES[arguments.size], state["model"], output, training)
    print(f"{output}: weights after {state['step']} steps, {state['tokens']:,} tokens")


if __name__ == "__main__":
    main()
