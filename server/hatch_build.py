"""Build hook: compiles the operator library into the package, where there is a C++ compiler."""

import importlib.util
import os
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class OperatorsHook(BuildHookInterface):
    """Puts ``libfathom_ops.so`` into a wheel, which is then named for its platform, or beside the sources (editable).

    Without a compiler the distribution installs without it: the server then runs the stock graph. ``FATHOM_NATIVE=0``
    at build time leaves it out on purpose.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library and add it to the wheel."""
        if os.environ.get("FATHOM_NATIVE") == "0":
            return
        build = _load(Path(self.root, "fathom_server", "native", "build.py"))
        try:
            library = build.build()
        except build.BuildError as error:
            self.app.display_warning(f"fathom-server is installed without its operator library: {error}")
            return
        build_data["artifacts"].append(f"/{library.relative_to(self.root).as_posix()}")
        build_data["pure_python"] = False
        # the library knows nothing of Python, so any interpreter of this platform can use it
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fathom_native_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
