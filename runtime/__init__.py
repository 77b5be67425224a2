"""The edge: source -> canvas -> tiles -> sites -> global stage -> masks -> sinks. Needs neither torch nor SAM's package."""
