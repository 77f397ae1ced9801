"""Who may read what: principals, decisions, scopes, and the check before anything surfaces."""
