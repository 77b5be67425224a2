"""The edge: source -> canvas -> tiles -> sites -> global stage -> masks -> sinks.

Needs neither torch nor segment_anything.
"""
