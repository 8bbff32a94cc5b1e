"""``helm/fathom/README.md``: what the chart is, and a table of all values."""

import json
from typing import Any, Final

from deploy.chart.values_file import Value, leaves

LONGEST_DEFAULT: Final = 60

_HEAD: Final = """# The chart fathom

<!-- Written by `python -m deploy.chart` from values.yaml; change that. -->

{description}. Version {version} of the chart, {app_version} of Fathom; Kubernetes {kube_version}.
How it is used, what it makes and what has never been run: [docs/kubernetes.md](../../docs/kubernetes.md).

```sh
helm install demo helm/fathom --values helm/fathom/ci/cpu-values.yaml
helm test demo --logs
```

Values that do not go together are refused with a sentence that says why and what to do. `ci/` holds files of values for
{cases}; each is rendered and checked by the tests.
"""


def readme_text(chart: dict[str, Any], values: tuple[Value, ...], cases: list[str]) -> str:
    """The README of a chart from its ``Chart.yaml``, its values, and the names of the files in ``ci/``."""
    parts = [
        _HEAD.format(
            description=chart["description"],
            version=chart["version"],
            app_version=chart["appVersion"],
            kube_version=chart["kubeVersion"].removesuffix("-0"),
            cases=", ".join(cases),
        )
    ]
    plain = tuple(value for value in values if not value.children)
    parts.append("## Values\n\n" + _table(plain))
    parts.extend(
        f"## `{value.path[-1]}`\n\n{value.explanation}\n\n" + _table(tuple(leaves(value.children)))
        for value in values
        if value.children
    )
    return "\n".join(parts)


def _table(values: tuple[Value, ...]) -> str:
    rows = ["| value | default | what it is for |", "|---|---|---|"]
    for value in values:
        allowed = value.annotation.get("enum")
        choices = f" One of {', '.join(f'`{each}`' for each in allowed if each != '')}." if allowed else ""
        cells = (f"`{'.'.join(value.path)}`", _default(value.default), value.explanation + choices)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see values.yaml"
