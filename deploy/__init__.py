"""What stands around the deployables: the tools of the chart."""
