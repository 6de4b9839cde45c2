"""Say which arm of a study was worth it: statistics over paired seeds, cost beside score, table and report."""
