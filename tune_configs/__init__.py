"""Presets of whole runs, as TOML: data, no logic. ``distrl train NAME`` runs presets/NAME.toml."""
