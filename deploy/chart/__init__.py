"""The chart's own command: ``values.schema.json`` and ``README.md`` from ``values.yaml``, rules and dashboards."""
