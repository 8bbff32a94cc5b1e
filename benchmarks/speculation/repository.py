"""The models that are measured, exported once: each of them with every method, and the one that drafts."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.peers import machine
from benchmarks.speculation.deep_model import write_deep

EXAMPLES: Final = machine.ROOT / "examples" / "models"
METHODS: Final = ("none", "prompt_lookup", "draft")
MODELS: Final = ("large", "deep")


def prepare(cache: Path, precision: str, *, rebuild: bool) -> Path:
    """The repository of all models and methods, made where it is not there."""
    deep, repository = cache / "deep", cache / f"repository-{precision}"
    if repository.is_dir() and not rebuild:
        return repository
    if not (deep / "model.safetensors").is_file():
        shutil.rmtree(deep, ignore_errors=True)
        deep.parent.mkdir(parents=True, exist_ok=True)
        write_deep(EXAMPLES / "large", deep)
    tables = [_table("small", EXAMPLES / "small", precision, "")]
    for model in MODELS:
        source = deep if model == "deep" else EXAMPLES / model
        for method in METHODS:
            draft = ', draft = "small"' if method == "draft" else ""
            speculation = f'speculation = {{ method = "{method}"{draft} }}\n'
            tables.append(_table(f"{model}_{method}", source, precision, speculation))
    bundle = cache / f"bundle-{precision}.toml"
    bundle.write_text(f'repository = "{repository.name}"\n' + "".join(tables), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "fathom_export.cli", str(bundle)], check=True)
    return repository


def newest_version(folder: Path) -> Path:
    """The version of a model that a server takes."""
    return max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def _table(name: str, source: Path, precision: str, more: str) -> str:
    return (
        f'[[models]]\nname = "{name}"\nsource = "{source}"\ntask = "generate"\nprecision = "{precision}"\n'
        f'limits = {{ max_batch = 4, max_context = 1024 }}\nquality = {{ effort = "off" }}\n{more}\n'
    )
