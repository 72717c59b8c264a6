"""From batches to models. Imports `data` and nothing else of ours."""
