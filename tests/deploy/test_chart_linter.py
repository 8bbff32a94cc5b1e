"""A kept linter of Kubernetes objects, checkov, finds nothing in any ci file but what is explained here."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.deploy.chart.rendering import CASES, rendered_case

CHECKOV: Final = shutil.which("checkov")

EXCEPTIONS: Final = {
    "CKV_K8S_11": ("", "no CPU limits: a throttled engine stalls the tokens of everybody in its batch"),
    "CKV_K8S_15": ("", "tags are versions, which do not change; pullPolicy is a value for those that do"),
    "CKV_K8S_43": ("", "digests are those of the registry that images go to; locked-down-values.yaml shows them"),
    "CKV_K8S_8": ("Pod", "pods of helm test run one command to its end"),
    "CKV_K8S_9": ("Pod", "pods of helm test run one command to its end"),
    "CKV_K8S_21": ("ConfigMap", "extra objects without a namespace, which Helm puts into the release's"),
    "CKV_K8S_35": ("", "the hub's library and rclone read tokens from the environment"),
    "CKV_K8S_40": ("Deployment", "no user is named where the cluster assigns one (podSecurity.runAsUser null)"),
}
"""By the check's number: the kind of object that it is excused for (any if empty), and why."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rendered")
    for case in CASES:
        (folder / f"{case}.yaml").write_text(yaml.safe_dump_all(rendered_case(case).objects), encoding="utf-8")
    return check(folder)


def check(folder: Path) -> dict[str, Any]:
    assert CHECKOV is not None
    command = [CHECKOV, "--directory", str(folder), "--framework", "kubernetes", "--skip-download", "--output", "json"]
    done = subprocess.run([*command, "--compact"], capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.linter
@pytest.mark.skipif(
    CHECKOV is None, reason="checkov is not installed; pip install checkov, in an environment of its own"
)
class TestCheckov:
    def test_findings_are_those_that_are_explained(self, findings: dict[str, Any]) -> None:
        """Every failed check is an exception, of an object that it is excused for."""
        assert findings["summary"]["passed"] > 1000
        assert findings["summary"]["parsing_errors"] == 0
        failed = {(each["check_id"], each["resource"]) for each in findings["results"]["failed_checks"]}
        unexplained = [
            (number, resource)
            for number, resource in sorted(failed)
            if number not in EXCEPTIONS or not resource.startswith(EXCEPTIONS[number][0])
        ]
        assert unexplained == []

    def test_no_exception_is_without_a_finding(self, findings: dict[str, Any]) -> None:
        """An exception that nothing needs any more is taken out."""
        assert {each["check_id"] for each in findings["results"]["failed_checks"]} == EXCEPTIONS.keys()

    def test_the_linter_finds_what_is_wrong(self, tmp_path: Path) -> None:
        """A pod that runs as root with every privilege fails checks that are no exceptions."""
        container = {"name": "a", "image": "a:1", "securityContext": {"privileged": True, "runAsUser": 0}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
        (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod), encoding="utf-8")
        failed = {each["check_id"] for each in check(tmp_path)["results"]["failed_checks"]}
        assert "CKV_K8S_16" in failed - EXCEPTIONS.keys()
