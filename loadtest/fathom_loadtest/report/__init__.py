"""What a run leaves behind: report.json, requests.jsonl, report.html."""
