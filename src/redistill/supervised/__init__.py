"""Blocks of supervised self-distillation: targets made of labels and past predictions, temperatures, sample weights."""
