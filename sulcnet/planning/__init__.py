"""Dataset facts to plan: fingerprint, normalisation, patch and batch; no torch."""
