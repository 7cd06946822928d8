"""Systems that no single call of ``fit`` makes, as a recipe runs them: ``<slug>.py`` has ``NEEDS`` (which of ``rows``,
``plan`` and ``resume`` it works with) and ``run(job, student, teacher, *, options) -> str``, which writes into the
job's folder and says what it wrote. Positional parameters are networks, keyword-only ones the recipe's options."""
