"""A pod's folders and addresses on this machine, so that the chart's own command lines can be run here."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDERS = re.compile(r"(?<![\w.-])/(models|checkpoints|reports|etc/fathom|tmp)(?=/|$)")
"""A pod's folders, where they begin a path."""


class Machine:
    """Folders and addresses of this machine in place of a pod's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.addresses: dict[str, str] = {}

    def local(self, text: str) -> str:
        text = FOLDERS.sub(lambda match: f"{self.root}{match[0]}", text)
        for theirs, ours in self.addresses.items():
            text = text.replace(theirs, ours)
        return text

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """What a pod has and this process lacks; HF_TOKEN and the like are not part of these values."""
        given = {each["name"]: self.local(each["value"]) for each in container.get("env", [])}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **given, "PATH": programs}

    def run(self, container: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        command = [self.local(str(word)) for word in container["command"]]
        return subprocess.run(
            command, env=self.environment(container), capture_output=True, text=True, check=False, timeout=200
        )

    def mount_secrets(
        self, pod: dict[str, Any], container: dict[str, Any], secrets: Mapping[str, Mapping[str, bytes]]
    ) -> None:
        """Write the files of a container's secrets, as the kubelet does: those that the volume names, and no others."""
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"] if "secret" in volume}
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                continue
            asked = volumes[mount["name"]]["secret"]
            values = secrets[asked["secretName"]]
            folder = Path(self.local(mount["mountPath"]))
            folder.mkdir(parents=True)
            for item in asked.get("items") or [{"key": key, "path": key} for key in values]:
                (folder / item["path"]).write_bytes(values[item["key"]])
