"""Exact models of distillation: problems whose teachers, students and risks have closed forms."""
