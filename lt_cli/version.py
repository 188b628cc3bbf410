"""The version, in one place: packages, checkpoints and pages say it."""

VERSION = "0.1.0"
