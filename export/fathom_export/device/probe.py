"""Runs a bundle's own ``generate.py`` over its whole context and says how much memory that took.

``python probe.py FOLDER LIMIT_BYTES``; 0 is no limit. Beyond the limit the system gives no memory (RLIMIT_DATA: private
writable memory, as Linux counts it since 4.7), so the run fails as it would on a device that has no more. Prints JSON:
``baseline_bytes`` with nothing but the libraries loaded, ``peak_bytes`` at the end, the kernel's high-water marks of
resident memory (VmHWM), mapped files among it; ``tokens`` that were generated.
"""

import json
import resource
import runpy
import sys
from pathlib import Path

NEW_TOKENS = 16


def peak_bytes() -> int:
    """The process's high-water mark of resident memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def main(folder: Path, limit_bytes: int) -> None:
    """Measure a bundle."""
    program = runpy.run_path(str(folder / "generate.py"), run_name="bundle")
    baseline = peak_bytes()
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    generator = program["Generator"](folder)
    generator.manifest["eos_token_ids"] = []  # to the context's end
    length = max(1, generator.manifest["max_context"] - NEW_TOKENS)
    prompt = [place % generator.manifest["vocabulary"] for place in range(length)]
    tokens = list(generator.generate(prompt, NEW_TOKENS))
    print(json.dumps({"baseline_bytes": baseline, "peak_bytes": peak_bytes(), "tokens": len(tokens)}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
