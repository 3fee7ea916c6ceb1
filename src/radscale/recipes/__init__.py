"""Experiments that come with radscale, as YAML files; a user's file may say `extends: NAME`."""
