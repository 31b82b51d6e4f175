"""edgelm_export: turns checkpoints into packages. Start with `pipeline.export`."""
