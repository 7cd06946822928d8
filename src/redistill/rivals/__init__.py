"""The published classics that systems are compared with, one short file each, ready for ``fit`` like any method.

Features of a frozen teacher: ``fitnets``, ``attention``, ``relational``, ``similarity`` (plug-ins of
:class:`~redistill.supervised.features.FeatureDistillation`), ``crd``. Without a stronger teacher: ``mutual``,
``born_again``, ``byot``, ``cs_kd``, ``tf_kd``. Language: ``sft``, ``token_kd``, ``context_distillation``,
``grpo``. Others: ``darts``, ``protonet``. Hinton's distillation, DKD and DIST are
:class:`~redistill.supervised.classifier.Distillation` with a match of ``supervised.matches``.
"""
