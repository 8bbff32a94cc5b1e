"""What Prometheus and Grafana are given: rules and dashboards, made from the metrics' names in the code."""
